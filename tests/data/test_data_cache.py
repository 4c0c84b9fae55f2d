import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from permissions import closed

from resnet_jax.data import cache
from resnet_jax.data.cache import cache_dir, cached

_IMAGE, _LABEL = np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3), np.array([3, 1, 2], np.int32)


def _make(writer):
    writer.write('image', [_IMAGE[:2], _IMAGE[2:]])
    writer.write('label', [_LABEL])
    return {'mean': [0.5]}


def _never(writer):
    raise AssertionError('decoded again')


def _same(result):
    assert result.facts == {'mean': [0.5]} and result.arrays.keys() == {'image', 'label'}
    for array, expected in ((result.arrays['image'], _IMAGE), (result.arrays['label'], _LABEL)):
        assert array.dtype == expected.dtype and not array.flags.writeable
        np.testing.assert_array_equal(array, expected)


def test_second_time_decodes_nothing():
    _same(cached('key', _make))
    _same(cached('key', _never))
    assert [path.name for path in cache_dir().iterdir()] == ['key']


def test_what_a_killed_process_left_is_deleted_and_what_another_writes_is_not():
    cache_dir().mkdir(parents=True)
    left, written, other = (cache_dir() / name for name in ('.key.abc', '.key.def', '.other.abc'))
    for path in (left, written, other):
        path.mkdir()
        (path / 'image.npy').write_bytes(b'half')
    for path in (left, other):
        os.utime(path, (0, 0))
    cached('key', _make)
    assert not left.exists() and written.exists() and other.exists()


def test_arrays_are_mapped_and_read_only():
    for _ in range(2):
        image = cached('key', _make).arrays['image']
        assert not image.flags.writeable and isinstance(image.base, np.memmap)


@pytest.mark.parametrize('name', ['image.npy', 'label.npy', 'arrays.json'])
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'gone', 'pickle', 'dtype'])
def test_damage_is_repaired(name, damage, caplog):
    cached('key', _make)
    path = cache_dir() / 'key' / name
    data = bytearray(path.read_bytes())
    if damage == 'cut':
        path.write_bytes(data[:-1])
    elif damage == 'flip':
        data[-2] ^= 1
        path.write_bytes(data)
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'gone':
        path.unlink()
    elif damage == 'pickle':
        with path.open('wb') as file:
            np.save(file, np.array([{}], object), allow_pickle=True)
    else:
        path.write_bytes(data.replace(b'<i4', b'<u4').replace(b'|u1', b'|i1'))
    _same(cached('key', _make))
    assert 'making them again' in caplog.text
    _same(cached('key', _never))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'file'))
    with caplog.at_level(logging.WARNING):
        _same(cached('key', _make))
    assert len(caplog.records) == 1 and '\n' not in caplog.text.strip() and 'cannot keep' in caplog.text


def test_a_cache_that_cannot_be_entered(tmp_path, monkeypatch, caplog):
    (tmp_path / 'home').mkdir()
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'home' / 'cache'))
    with closed(tmp_path / 'home'), caplog.at_level(logging.WARNING):
        _same(cached('key', _make))
    assert len(caplog.records) == 1 and 'cannot keep' in caplog.text


def test_a_full_disk_leaves_nothing_and_keeps_the_arrays_in_memory(tmp_path, caplog):
    """In a process of its own, whose files may have 100 bytes, less than the header of an .npy file."""
    code = """
import resource, signal, sys
from test_data_cache import _make, _same, cache_dir, cached

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
_same(cached('key', _make))
print(list(cache_dir().iterdir()))
"""
    options = {'cwd': Path(__file__).parent, 'env': {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}}
    done = subprocess.run([sys.executable, '-c', code], **options, capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n' and 'cannot keep the decoded images' in done.stderr and 'File too large' in done.stderr


def test_an_error_of_the_source_leaves_nothing():
    def make(writer):
        writer.write('image', (_broken() for _ in range(1)))

    def _broken():
        raise FileNotFoundError(2, 'No such file', 'a.png')

    with pytest.raises(FileNotFoundError, match=r'a\.png'):
        cached('key', make)
    assert list(cache_dir().iterdir()) == []


def test_arrays_too_large_to_read_at_every_start_are_not_checked(monkeypatch):
    cached('key', _make)
    path = cache_dir() / 'key' / 'image.npy'
    path.write_bytes(path.read_bytes()[:-1] + b'!')
    monkeypatch.setattr(cache, 'CHECKED_BYTES', 20)
    assert cached('key', _never).arrays['image'][-1, -1, -1, -1] == ord('!')


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / 'cache'
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', '')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert str(cache_dir()) == '/xdg/resnet_jax'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_dir() == tmp_path / 'home' / '.cache' / 'resnet_jax'
