import fcntl
import json
import os
import resource
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from resnet_jax.data import load_dataset, prepare
from resnet_jax.errors import InputFileError, ResourceError

FIXTURES = {'cifar10': 'tiny', 'cifar100': 'tiny100'}


@pytest.mark.parametrize('name', FIXTURES)
def test_other_tfds_programs_can_read_it(name, tmp_path, request, capfd):
    tiny = request.getfixturevalue(FIXTURES[name])
    dataset = load_dataset(name, data_dir=tmp_path / 'root', data_archive=tiny.path)
    assert capfd.readouterr().out == ''
    assert dataset.num_classes == tiny.source.num_classes
    assert dataset.class_names == tuple(f'label_{i}' for i in range(dataset.num_classes))
    for split in ('train', 'test'):
        source = tfds.data_source(name, split=split, data_dir=tmp_path / 'root')
        ours = getattr(dataset, split)
        assert len(source) == len(ours.label) == len(tiny.image[split])
        for i, example in enumerate(source):
            index = int(example['id'].decode().removeprefix(f'{split}_'))
            np.testing.assert_array_equal(example['image'], tiny.image[split][index])
            np.testing.assert_array_equal(example['image'], ours.image[i])
            assert example['label'] == ours.label[i]
            assert {key: example[key] for key in tiny.label[split]} == {
                key: label[index] for key, label in tiny.label[split].items()
            }


@pytest.mark.parametrize('name', FIXTURES)
def test_features_and_version_are_those_of_tfds(name, tmp_path, request):
    tiny = request.getfixturevalue(FIXTURES[name])
    folder = prepare.prepare_folder(tiny.source, tmp_path / 'root', tiny.path)
    theirs = tfds.builder_cls(name)
    assert folder == tmp_path / 'root' / name / str(theirs.VERSION)
    theirs(data_dir=tmp_path / 'elsewhere').info.features.save_config(tmp_path)
    assert json.loads((folder / 'features.json').read_text()) == json.loads((tmp_path / 'features.json').read_text())


def test_what_a_killed_preparation_left_is_deleted(tmp_path, tiny):
    left, other = (tmp_path / 'root' / tiny.source.name / f'incomplete.{name}' for name in ('ABC123_3.0.2', 'ABC123_9.9.9'))
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / 'half').write_text('x')
        os.utime(folder, (0, 0))
    prepare.prepare_folder(tiny.source, tmp_path / 'root', tiny.path)
    assert not left.exists() and other.exists()


def test_a_folder_that_is_there_is_left_alone(prepared, tiny):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob('*') if path.is_file()}
    tiny.path.unlink()
    load_dataset('cifar10', data_dir=prepared, data_archive=tiny.path)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob('*') if path.is_file()} == before


@pytest.mark.parametrize('what', ['image', 'shard'])
def test_nothing_appears_on_a_full_disk(what, tmp_path, tiny, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if what == 'image':
        monkeypatch.setattr('PIL.Image.Image.save', fail)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ResourceError, match=r'No space left on device|File too large') as error:
            load_dataset('cifar10', data_dir=tmp_path / 'root', data_archive=tiny.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert '\n' not in str(error.value)
    assert list((tmp_path / 'root' / 'cifar10').iterdir()) == []


def test_a_bad_archive_leaves_no_root(tmp_path, tiny):
    tiny.path.write_bytes(b'x')
    with pytest.raises(InputFileError, match='expected'):
        load_dataset('cifar10', data_dir=tmp_path / 'root', data_archive=tiny.path)
    assert not (tmp_path / 'root').exists()


def test_a_root_that_cannot_be_written(tmp_path, tiny):
    (tmp_path / 'file').touch()
    with pytest.raises(ResourceError, match=r'cannot write .*file.*data_dir'):
        load_dataset('cifar10', data_dir=tmp_path / 'file' / 'root', data_archive=tiny.path)


def test_the_second_process_waits_for_the_first(tmp_path, tiny, prepared_once, caplog):
    downloads = tmp_path / 'root' / 'downloads'
    downloads.mkdir(parents=True)
    result = []
    with (downloads / 'cifar10.lock').open('a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(
            target=lambda: result.append(prepare.prepare_folder(tiny.source, tmp_path / 'root', tiny.path))
        )
        second.start()
        deadline = time.monotonic() + 120
        while 'waiting' not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        folder = tmp_path / 'root' / 'cifar10' / '3.0.2'
        folder.mkdir(parents=True)  # what the first prepares, as the second sees it
    second.join()
    assert 'waiting' in caplog.text and result == [folder] and list(folder.iterdir()) == []
