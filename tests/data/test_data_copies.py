"""Every copy of CIFAR gives the same arrays: the same fingerprint of pixels and labels, in the same order."""

import dataclasses
import hashlib
import pickle
import re

import numpy as np
import pytest
from cifar_copies import pickled, png

import resnet_jax.data
from resnet_jax.data import load_dataset
from resnet_jax.data.archive import verify_archive
from resnet_jax.data.pickled import NotCifarError, read_batch, read_names
from resnet_jax.errors import InputFileError

FIXTURES = {'cifar10': 'tiny', 'cifar100': 'tiny100'}


def _load(name, source, path, root, monkeypatch):
    monkeypatch.setitem(resnet_jax.data.SOURCES, name, source)
    return load_dataset(name, data_archive=str(path), data_dir=str(root))


@pytest.mark.parametrize('name', FIXTURES)
def test_all_formats_give_the_same_data_set(name, request, tmp_path, monkeypatch):
    tiny = request.getfixturevalue(FIXTURES[name])
    first = _load(name, tiny.source, tiny.path, tmp_path / 'binary', monkeypatch)
    python = tiny.write_python(tmp_path / 'python.tar.gz')
    # Tables may have the official batches in another order: each is found by its hash.
    parts = np.split(np.arange(20), len(tiny.source.train_files))
    tables = tiny.write_tables(tmp_path / 'tables', np.concatenate([parts[i] for i in (3, 2, 4, 1, 0) if i < len(parts)]))
    for source, path in ((python, tmp_path / 'python.tar.gz'), (tables, tmp_path / 'tables')):
        other = _load(name, source, path, tmp_path / path.stem / 'root', monkeypatch)
        assert other.fingerprint == first.fingerprint and other.class_names == first.class_names
        np.testing.assert_array_equal(other.train.image, first.train.image)


@pytest.mark.parametrize('change', ['pixel', 'label', 'order'])
def test_tables_that_are_not_the_official_images_are_refused(change, tiny, tmp_path, monkeypatch):
    def changed(columns):
        if change == 'label':
            columns['label'][3] = (columns['label'][3] + 1) % 10
        elif change == 'order':
            columns = {key: [values[1], values[0], *values[2:]] for key, values in columns.items()}
        else:
            image = tiny.image['train'][3].copy()
            image[5, 6, 1] ^= 1
            columns['img'][3]['bytes'] = png(image)
        return columns

    source = tiny.write_tables(tmp_path / 'tables', change=changed)
    with pytest.raises(InputFileError, match=r'tables: the train images and labels are not those of cifar10 \(1 of 5 parts'):
        _load('cifar10', source, tmp_path / 'tables', tmp_path / 'root', monkeypatch)
    assert not (tmp_path / 'root' / 'cifar10').exists()


def test_a_file_that_is_no_copy_names_all_that_are(tiny, tmp_path):
    python = tiny.write_python(tmp_path / 'python.tar.gz')
    source = dataclasses.replace(tiny.source, copies=tiny.source.copies + python.copies)
    (tmp_path / 'x').write_bytes(b'x')
    with pytest.raises(InputFileError, match=r'has 1 bytes: expected \d+, the size of .* or \d+, the size of python'):
        verify_archive(tmp_path / 'x', source)


def test_the_tests_write_the_real_format():
    """The published MD5 of batches.meta (torchvision, datasets/cifar.py), and what Python's own unpickler makes of a batch."""
    names = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
    meta = pickled({'num_cases_per_batch': 10000, 'label_names': names, 'num_vis': 3072})
    assert hashlib.md5(meta).hexdigest() == '5ff9c542aee3614f3951f8cda6e48888'
    assert read_names(meta, {'label': 'label_names'}) == {'label': names}
    data = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    batch = pickled({'batch_label': 'training batch 1 of 5', 'labels': [6, 9], 'data': data, 'filenames': ['a', 'b']})
    theirs = pickle.loads(batch, encoding='bytes')
    np.testing.assert_array_equal(theirs[b'data'], data)
    np.testing.assert_array_equal(read_batch(batch, ['labels'], 2), np.concatenate([[[6], [9]], data], axis=1))


def _batch(**changes):
    return {'labels': [1, 2], 'data': np.zeros((2, 3072), np.uint8), **changes}


BAD = {
    'opcode': b'\x80\x02i.',
    'no_end': pickled(_batch())[:-1],
    'cut': pickled(_batch())[:3000],
    'a_list': pickled([1]),
    'no_data': pickled({'labels': [1, 2]}),
    'other_shape': pickled(_batch(data=np.zeros((3, 3072), np.uint8))),
    'short_data': pickled(_batch()).replace(b'M\x00\x0c\x86', b'M\x01\x0c\x86'),
    'floats': pickled(_batch()).replace(b'U\x02u1', b'U\x02f8'),
    'objects': pickled(_batch()).replace(b'U\x02u1', b'U\x02O8'),
    'labels_missing': pickled(_batch(labels=[1])),
    'label_text': pickled(_batch(labels=[1, 'x'])),
    'label_large': pickled(_batch(labels=[1, 256])),
    'another_function': pickled(_batch()).replace(b'cnumpy.core.multiarray\n_reconstruct\n', b'cos\nsystem\n'),
    'no_mark': b'\x80\x02}u.',
    'memo': b'\x80\x02j\xff\xff\xff\xff.',
    'huge_text': b'\x80\x02T\xff\xff\xff\x7f.',
    'negative_text': b'\x80\x02T\xff\xff\xff\xff.',
    'unhashable_key': b'\x80\x02}(]K\x01u.',
    'empty': b'',
}


@pytest.mark.parametrize('bad', BAD)
def test_a_pickle_of_something_else_runs_nothing(bad, monkeypatch):
    monkeypatch.setattr('os.system', lambda *_: pytest.fail('it was run'))
    with pytest.raises(NotCifarError):
        read_batch(BAD[bad], ['labels'], 2)


def test_a_damaged_batch_is_named(tiny, tmp_path, monkeypatch):
    def change(name, data):
        return data[:-2] if name == 'data_batch_4' else data

    source = tiny.write_python(tmp_path / 'python.tar.gz', change)
    with pytest.raises(InputFileError, match=r'python.tar.gz: data_batch_4: found a file that is truncated, expected') as error:
        _load('cifar10', source, tmp_path / 'python.tar.gz', tmp_path / 'root', monkeypatch)
    assert not re.search(r'[\n\x1b]', str(error.value))
