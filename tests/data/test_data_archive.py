import tarfile

import numpy as np
import pytest

from resnet_jax.data.archive import read_archive, verify_archive
from resnet_jax.errors import InputFileError


@pytest.mark.parametrize('fixture', ['tiny', 'tiny100'])
def test_reads_images_labels_and_names(fixture, request):
    tiny = request.getfixturevalue(fixture)
    contents = read_archive(tiny.path, verify_archive(tiny.path, tiny.source), tiny.source)
    for split in ('train', 'test'):
        np.testing.assert_array_equal(contents.image[split], tiny.image[split])
        assert contents.label[split].keys() == tiny.label[split].keys()
        for key, label in tiny.label[split].items():
            np.testing.assert_array_equal(contents.label[split][key], label)
    for label in tiny.source.labels:
        assert contents.names[label.key] == [f'{label.key}_{i}' for i in range(label.num_classes)]


def _fails(tiny, match):
    with pytest.raises(InputFileError, match=match) as error:
        read_archive(tiny.path, verify_archive(tiny.path, tiny.source), tiny.source)
    assert str(tiny.path) in str(error.value) and '\n' not in str(error.value)


def test_missing_file(tiny):
    tiny.path.unlink()
    _fails(tiny, 'No such file')


def test_truncated_file(tiny):
    tiny.path.write_bytes(tiny.path.read_bytes()[:-100])
    _fails(tiny, f'expected {tiny.file.size}')


def test_other_bytes_of_the_same_size(tiny):
    data = bytearray(tiny.path.read_bytes())
    data[1000] ^= 1
    tiny.path.write_bytes(data)
    _fails(tiny, f'has SHA-256 [0-9a-f]{{64}}: expected {tiny.file.sha256}')


def test_truncated_inside(tiny):
    tiny.path.write_bytes(tiny.path.read_bytes()[:-2000])
    tiny.fit()
    _fails(tiny, 'is damaged')


def test_not_an_archive(tiny):
    tiny.path.write_bytes(b'<html>' * 100)
    tiny.fit()
    _fails(tiny, 'is damaged')


def test_label_out_of_range(tiny):
    data = bytearray(tiny.members['data_batch_2.bin'])
    data[3073] = 255
    tiny.write(tiny.members | {'data_batch_2.bin': bytes(data)})
    _fails(tiny, 'data_batch_2.bin: found label 255 in record 1, expected 0 to 9')


def test_coarse_label_out_of_range(tiny100):
    data = bytearray(tiny100.members['test.bin'])
    data[0] = 20
    tiny100.write(tiny100.members | {'test.bin': bytes(data)})
    _fails(tiny100, 'test.bin: found coarse_label 20 in record 0, expected 0 to 19')


@pytest.mark.parametrize('data', [b'', b'x' * 3073, b'x' * (4 * 3073 + 1)])
def test_wrong_member_size(tiny, data):
    tiny.write(tiny.members | {'data_batch_5.bin': data})
    _fails(tiny, f'data_batch_5.bin: found {len(data)} bytes, expected {4 * 3073}')


@pytest.mark.parametrize('text, match', [(b'cat\ndog\n', 'found 2 class names'), (b'x' * 70_000, 'expected at most')])
def test_wrong_class_names(tiny, text, match):
    tiny.write(tiny.members | {'batches.meta.txt': text})
    _fails(tiny, f'batches.meta.txt: .*{match}|{match}')


def test_missing_member(tiny):
    tiny.write({name: data for name, data in tiny.members.items() if name != 'test_batch.bin'})
    _fails(tiny, 'test_batch.bin: found no such member')


def test_links_are_refused(tiny):
    link = tarfile.TarInfo(f'{tiny.folder}/test_batch.bin')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tiny.write({name: data for name, data in tiny.members.items() if name != 'test_batch.bin'}, [link])
    _fails(tiny, 'test_batch.bin: found a link')


def test_nothing_is_extracted(tiny, tmp_path):
    tiny.write(extra=[tarfile.TarInfo('notes'), tarfile.TarInfo(f'{tiny.folder}/more')])
    before = sorted(tmp_path.rglob('*'))
    read_archive(tiny.path, tiny.source.copies[0], tiny.source)
    for name in ('../outside', '/outside', f'{tiny.folder}/../../outside'):
        tiny.write(extra=[tarfile.TarInfo(name)])
        with pytest.raises(InputFileError, match='outside: found a path out of the archive'):
            read_archive(tiny.path, tiny.source.copies[0], tiny.source)
    assert sorted(tmp_path.rglob('*')) == before
