import logging
import os

import numpy as np
import pytest

from resnet_jax.data import Split
from resnet_jax.data.cache import cache_dir, cached


def _splits():
    image = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    return Split(image, np.array([3, 1], np.int32)), Split(image[:1] + 1, np.array([2], np.int32))


def _never():
    raise AssertionError('decoded again')


def _same(found):
    for split, expected in zip(found, _splits(), strict=True):
        assert split.image.dtype == np.uint8 and split.label.dtype == np.int32
        np.testing.assert_array_equal(split.image, expected.image)
        np.testing.assert_array_equal(split.label, expected.label)


def test_second_time_decodes_nothing():
    _same(cached('key', _splits))
    _same(cached('key', _never))
    assert [path.name for path in cache_dir().iterdir()] == ['key']


def test_what_a_killed_process_left_is_deleted_and_what_another_writes_is_not():
    cache_dir().mkdir(parents=True)
    left, written, other = (cache_dir() / name for name in ('.key.abc', '.key.def', '.other.abc'))
    for path in (left, written, other):
        path.mkdir()
        (path / 'train_image.npy').write_bytes(b'half')
    for path in (left, other):
        os.utime(path, (0, 0))
    cached('key', _splits)
    assert not left.exists() and written.exists() and other.exists()


def test_arrays_are_mapped_and_read_only():
    for _ in range(2):
        train, _ = cached('key', _splits)
        assert not train.image.flags.writeable and isinstance(train.image.base, np.memmap)


@pytest.mark.parametrize('name', ['train_image.npy', 'train_label.npy', 'test_image.npy', 'arrays.json'])
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'gone', 'pickle', 'dtype'])
def test_damage_is_repaired(name, damage, caplog):
    cached('key', _splits)
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
    _same(cached('key', _splits))
    assert 'making them again' in caplog.text
    _same(cached('key', _never))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'file'))
    with caplog.at_level(logging.WARNING):
        _same(cached('key', _splits))
    assert len(caplog.records) == 1 and '\n' not in caplog.text.strip() and 'cannot keep' in caplog.text


def test_a_write_that_fails_leaves_nothing(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'save', full)
    _same(cached('key', _splits))
    assert list(cache_dir().iterdir()) == []


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / 'cache'
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', '')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert str(cache_dir()) == '/xdg/resnet_jax'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_dir() == tmp_path / 'home' / '.cache' / 'resnet_jax'
