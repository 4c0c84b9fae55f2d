import io
import json
import os

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2
from test_data_tfrecord import frame

from resnet_jax.data import load_dataset
from resnet_jax.data.tfds_folder import find_folder, read_folder, tfds_root
from resnet_jax.errors import ConfigError, InputFileError


@pytest.fixture
def folder(prepared):
    return prepared / 'cifar10' / '3.0.2'


def _shard(folder, split='train'):
    (path,) = folder.glob(f'cifar10-{split}.*')
    return path


def _records(path):
    reader = ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    return records


def _rewrite(path, records):
    path.unlink()
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for record in records:
        writer.write(record)
    writer.close()


def _example(image, label):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    example = tf_example_pb2.Example()
    example.features.feature['image'].bytes_list.value.append(buffer.getvalue())
    example.features.feature['label'].int64_list.value.append(label)
    return example.SerializeToString()


def _to_tfrecord(folder):
    """Turns the folder into what tfds writes with file_format='tfrecord'."""
    for split in ('train', 'test'):
        path = _shard(folder, split)
        path.with_name(path.name.replace('array_record', 'tfrecord')).write_bytes(frame(_records(path)))
        path.unlink()
    info = folder / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))


def _edit(folder, change):
    info = json.loads((folder / 'dataset_info.json').read_text())
    change(info)
    (folder / 'dataset_info.json').write_text(json.dumps(info))


def _fails(prepared, match, file):
    with pytest.raises(InputFileError, match=match) as error:
        load_dataset('cifar10', data_dir=prepared)
    assert str(file) in str(error.value) and '\n' not in str(error.value) and error.value.exit_code == 3


def test_tfrecord_and_array_record_are_the_same_data(prepared, folder):
    first = load_dataset('cifar10', data_dir=prepared)
    _to_tfrecord(folder)
    second = load_dataset('cifar10', data_dir=prepared)
    assert first.fingerprint == second.fingerprint
    for split in ('train', 'test'):
        np.testing.assert_array_equal(getattr(first, split).image, getattr(second, split).image)
        np.testing.assert_array_equal(getattr(first, split).label, getattr(second, split).label)


def test_several_shards(prepared, folder):
    expected = load_dataset('cifar10', data_dir=prepared).train
    path = _shard(folder)
    records = _records(path)
    for i, part in enumerate((records[:13], records[13:])):
        shard = path.with_name(f'cifar10-train.array_record-0000{i}-of-00002')
        shard.touch()
        _rewrite(shard, part)
    path.unlink()
    _edit(folder, lambda info: info['splits'][0].update(shardLengths=['13', '7']))
    np.testing.assert_array_equal(load_dataset('cifar10', data_dir=prepared).train.image, expected.image)


def test_jpeg_copies_are_read(prepared, folder):
    example = tf_example_pb2.Example()
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 77, np.uint8)).save(buffer, 'JPEG')
    example.features.feature['image'].bytes_list.value.append(buffer.getvalue())
    example.features.feature['label'].int64_list.value.append(4)
    path = _shard(folder)
    _rewrite(path, [*_records(path)[1:], example.SerializeToString()])
    dataset = load_dataset('cifar10', data_dir=prepared)
    assert dataset.train.label[-1] == 4 and np.all(dataset.train.image[-1] == 77)
    assert 'differ from the official ones' in dataset.notes[0]


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'html', 'gone', 'pipe'])
def test_damaged_shard(prepared, folder, file_format, damage):
    if file_format == 'tfrecord':
        _to_tfrecord(folder)
    path = _shard(folder)
    data = bytearray(path.read_bytes())
    if damage == 'cut':
        path.write_bytes(data[: len(data) // 2])
    elif damage == 'flip':
        data[10_000] ^= 1  # the end of so small a file is padding
        path.write_bytes(data)
    elif damage in ('gone', 'pipe'):
        path.unlink()
        if damage == 'pipe':
            os.mkfifo(path)
    else:
        path.write_bytes({'empty': b'', 'html': b'<html>no</html>' * 999}[damage])
    _fails(prepared, 'damaged|holds 0 records|not a regular file', path)


@pytest.mark.parametrize(
    'image, label, match',
    [
        (np.zeros((32, 32, 3), np.uint8), 255, 'label 255, expected 0 to 9'),
        (np.zeros((32, 32, 3), np.uint8), -1, 'label -1, expected 0 to 9'),
        (np.zeros((16, 32, 3), np.uint8), 1, r'the image is \(16, 32, 3\), expected \(32, 32, 3\)'),
        (np.zeros((32, 32), np.uint8), 1, r'the image is \(32, 32, 1\)'),
    ],
)
def test_wrong_record(prepared, folder, image, label, match):
    path = _shard(folder)
    _rewrite(path, [*_records(path)[:-1], _example(image, label)])
    _fails(prepared, f'record 19: {match}', path)


@pytest.mark.parametrize('record', [b'', b'\xff\xff', _example(np.zeros((32, 32, 3), np.uint8), 1)[:-900]])
def test_garbage_record(prepared, folder, record):
    path = _shard(folder)
    _rewrite(path, [*_records(path)[:-1], record])
    _fails(prepared, 'record 19', path)


def test_garbage_image(prepared, folder):
    example = tf_example_pb2.Example.FromString(_example(np.random.default_rng(0).integers(0, 9, (32, 32, 3), np.uint8), 1))
    good = example.features.feature['image'].bytes_list.value[0]
    path = _shard(folder)
    records = _records(path)[:-1]
    for bad in (good[:100], good[:-60], b'GIF89a' + good, good[:50] + bytes(60) + good[110:]):
        example.features.feature['image'].bytes_list.value[0] = bad
        _rewrite(path, [*records, example.SerializeToString()])
        _fails(prepared, 'record 19', path)


def test_too_few_records_in_a_shard(prepared, folder):
    path = _shard(folder)
    _rewrite(path, _records(path)[:-1])
    _fails(prepared, 'holds 19 records: expected 20', path)


def test_wrong_count_in_the_description(prepared, folder):
    _edit(folder, lambda info: info['splits'][0].update(shardLengths=['19']))
    _fails(prepared, "counts {'train': 19, 'test': 8} images: expected {'train': 20", folder / 'dataset_info.json')


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda info: info.update(name='cifar100'), "describes 'cifar100': expected 'cifar10'"),
        (lambda info: info.update(fileFormat='riegeli'), 'format'),
        (lambda info: info['splits'].pop(), 'test'),
    ],
)
def test_description_of_something_else(prepared, folder, change, match):
    _edit(folder, change)
    _fails(prepared, match, folder / 'dataset_info.json')


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('text', [None, '', '{', '[]', '{"name": 7}', '\x00'])
def test_damaged_description(prepared, folder, file, text):
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    _fails(prepared, 'missing or damaged|describes', folder / 'dataset_info.json')


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json', 'label.labels.txt'])
@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_descriptions_that_are_no_files(prepared, folder, file, make):
    (folder / file).unlink()
    make(folder / file)
    _fails(prepared, f'it is not a regular file.*{file}', folder / 'dataset_info.json')


def test_features_of_something_else(prepared, folder):
    features = (folder / 'features.json').read_text().replace('"numClasses": "10"', '"numClasses": "100"')
    (folder / 'features.json').write_text(features)
    (folder / 'label.labels.txt').unlink()
    _fails(prepared, r'100 classes: expected \(32, 32, 3\) in 10', folder / 'features.json')


def test_class_names(prepared, folder):
    load_dataset('cifar10', data_dir=prepared)
    path = folder / 'label.labels.txt'
    path.write_text('cat\ndog\n')
    _fails(prepared, 'names 2 classes: expected 10', path)
    path.write_text('cat\n' * 10)
    _fails(prepared, 'names 1 different classes: expected 10', path)
    path.unlink()
    assert load_dataset('cifar10', data_dir=prepared).class_names == tuple('0123456789')


def test_empty_folder(prepared, folder):
    for path in folder.iterdir():
        path.unlink()
    _fails(prepared, 'holds no .array_record or .tfrecord files', folder)


def test_newest_version_of_3_is_taken(tmp_path):
    assert find_folder(tmp_path, 'cifar10') is None
    for version in ('3.0.2', '3.0.10', '3.0.9', '4.0.0', '2.9.9', 'incomplete.ABCDEF_3.9.9', '3.1'):
        (tmp_path / 'cifar10' / version).mkdir(parents=True)
    assert find_folder(tmp_path, 'cifar10').name == '3.0.10'
    (tmp_path / 'cifar100').touch()
    assert find_folder(tmp_path, 'cifar100') is None


def test_root_precedence(monkeypatch, tmp_path):
    assert tfds_root(None) == tfds_root('') == tmp_path / 'home' / 'tensorflow_datasets'
    monkeypatch.setenv('TFDS_DATA_DIR', '')
    assert tfds_root(None) == tmp_path / 'home' / 'tensorflow_datasets'
    monkeypatch.setenv('TFDS_DATA_DIR', '/environment')
    assert str(tfds_root('')) == '/environment'
    assert tfds_root('~/given') == tmp_path / 'home' / 'given'


def test_the_default_root_is_that_of_tfds(monkeypatch, tmp_path):
    from tensorflow_datasets.core.constants import get_default_data_dir

    assert str(tfds_root(None)) == get_default_data_dir()


def test_roots_that_are_none(prepared, folder):
    for path in (folder, folder.parent):
        with pytest.raises(ConfigError, match=f'pass {prepared}$'):
            tfds_root(path)
    with pytest.raises(ConfigError, match='local folder'):
        tfds_root('gs://bucket/data')


def test_read_folder_gives_the_images_in_the_order_of_the_files(folder, tiny):
    train, test, official = read_folder(folder, tiny.source)
    assert official
    for split, ours in (('train', train), ('test', test)):
        ids = [
            int(tf_example_pb2.Example.FromString(record).features.feature['id'].bytes_list.value[0].split(b'_')[1])
            for record in _records(_shard(folder, split))
        ]
        assert sorted(ids) == list(range(len(ids)))
        np.testing.assert_array_equal(ours.image, tiny.image[split][ids])
        np.testing.assert_array_equal(ours.label, tiny.label[split]['label'][ids])
