import logging
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import resnet_jax.data
from resnet_jax.data import available_datasets, cache, load_dataset, tfds_folder
from resnet_jax.errors import ConfigError, InputFileError

REAL_ROOT = os.environ.get('TFDS_DATA_DIR')  # read before the fixture that hides it


def _never(*args):
    raise AssertionError('decoded again')


def test_second_load_is_equal_and_decodes_nothing(prepared, monkeypatch):
    first = load_dataset('cifar10', data_dir=prepared)
    monkeypatch.setattr(tfds_folder, 'read_folder', _never)
    second = load_dataset('cifar10', data_dir=prepared)
    assert first.fingerprint == second.fingerprint
    for split in ('train', 'test'):
        assert getattr(first, split).image.tobytes() == getattr(second, split).image.tobytes()
        assert getattr(first, split).label.tobytes() == getattr(second, split).label.tobytes()
        assert getattr(second, split).image.dtype == np.uint8 and getattr(second, split).label.dtype == np.int32
    assert second.image_shape == (32, 32, 3) and second.num_classes == 10
    assert second.mean == (0.4914, 0.4822, 0.4465) and second.std == (0.2470, 0.2435, 0.2616)


def test_a_copy_elsewhere_is_the_same_data(prepared, tmp_path, monkeypatch):
    first = load_dataset('cifar10', data_dir=prepared)
    shutil.copytree(prepared, tmp_path / 'copy', copy_function=shutil.copyfile)
    monkeypatch.setattr(tfds_folder, 'read_folder', _never)
    assert load_dataset('cifar10', data_dir=tmp_path / 'copy').fingerprint == first.fingerprint


def test_damage_after_the_first_load_is_noticed(prepared):
    load_dataset('cifar10', data_dir=prepared)
    path = next((prepared / 'cifar10' / '3.0.2').glob('cifar10-train*'))
    data = bytearray(path.read_bytes())
    data[10_000] ^= 1  # the end of so small a file is padding
    path.write_bytes(data)
    with pytest.raises(InputFileError, match='damaged'):
        load_dataset('cifar10', data_dir=prepared)


def test_data_dir_before_environment_before_default(prepared, tmp_path, monkeypatch):
    def prints(root):
        folders = []
        monkeypatch.setattr(tfds_folder, 'fingerprint', lambda folder: folders.append(str(folder)) or str(len(folders)))
        load_dataset('cifar10', data_dir=root)
        return folders[-1]

    folder = 'cifar10/3.0.2'
    default = shutil.copytree(prepared, tmp_path / 'home' / 'tensorflow_datasets')
    assert prints(None) == str(default / folder)
    environment = shutil.copytree(prepared, tmp_path / 'environment')
    monkeypatch.setenv('TFDS_DATA_DIR', str(environment))
    assert prints('') == str(environment / folder)
    assert prints(prepared) == str(prepared / folder)


def test_a_prepared_folder_goes_before_an_archive(prepared, tiny, caplog):
    with caplog.at_level(logging.WARNING):
        load_dataset('cifar10', data_dir=prepared, data_archive='/nowhere/archive.tar.gz')
    assert 'already prepared' in caplog.text


def test_no_network_and_no_data(tmp_path, tiny, monkeypatch):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        host = f'127.0.0.1:{unused.getsockname()[1]}'
    monkeypatch.setitem(resnet_jax.data.SOURCES, 'cifar10', tiny.fit([f'http://{host}/cifar-10-binary.tar.gz']))
    attempts = mock.Mock(wraps=urllib.request.urlopen)
    monkeypatch.setattr(urllib.request, 'urlopen', attempts)
    with pytest.raises(InputFileError) as error:
        load_dataset('cifar10', data_dir=tmp_path / 'root')
    assert attempts.call_count == 1  # tfds would try again for minutes
    message = str(error.value)
    for part in (host, 'try again', 'data_archive=FILE', 'data_dir=DIR', 'TFDS_DATA_DIR'):
        assert part in message
    assert 'the config quickstart' in message and 'dataset=synthetic_cifar10' in message
    assert '\n' not in message and not (tmp_path / 'root').exists()


def test_a_name_that_does_not_exist():
    assert available_datasets()[:3] == ('cifar10', 'cifar100', 'digits')
    with pytest.raises(ConfigError, match=r"expected one of cifar10, cifar100, digits, .*; did you mean 'cifar10'"):
        load_dataset('cifar-10')
    with pytest.raises(ConfigError, match=r'expected one of cifar10, cifar100, digits, .*; change the name'):
        load_dataset('')


def _python(code, **environment):
    """Runs code in a fresh interpreter with the repository's package; returns what it prints."""
    result = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | environment,
        cwd=Path(resnet_jax.data.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def test_import_is_cheap():
    heavy = "('jax', 'tensorflow', 'tensorflow_datasets', 'PIL', 'sklearn', 'rich', 'array_record')"
    assert _python(f'import sys, resnet_jax.data; print([m for m in {heavy} if m in sys.modules])') == '[]'


@pytest.mark.slow
@pytest.mark.skipif(
    not (REAL_ROOT and (Path(REAL_ROOT) / 'cifar10').is_dir()),
    reason='TFDS_DATA_DIR does not name a tfds root that holds cifar10',
)
def test_the_real_cifar10():
    first = load_dataset('cifar10', data_dir=REAL_ROOT)
    assert first.train.image.shape == (50_000, 32, 32, 3) and first.test.image.shape == (10_000, 32, 32, 3)
    assert np.bincount(first.train.label).tolist() == [5_000] * 10
    assert np.bincount(first.test.label).tolist() == [1_000] * 10
    scaled = first.train.image.reshape(-1, 3)
    np.testing.assert_allclose(scaled.mean(0, dtype=np.float64) / 255, first.mean, atol=0.001)
    code = (
        'import sys, time; start = time.process_time(); from resnet_jax.data import load_dataset; '
        f'dataset = load_dataset("cifar10", data_dir={REAL_ROOT!r}); '
        'print(time.process_time() - start, dataset.fingerprint, "tensorflow_datasets" in sys.modules)'
    )
    seconds, fingerprint, imported = _python(code).split()
    shutil.rmtree(cache.cache_dir())  # 184 MB
    assert float(seconds) < 1 and fingerprint == first.fingerprint and imported == 'False'
