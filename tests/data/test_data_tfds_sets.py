"""`tfds:NAME`: sets that tfds's own builder wrote, compared with what tfds reads."""

import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2
from test_data_tfrecord import frame

from resnet_jax.data import load_dataset, tfds_sets
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.split import Fingerprint, Split
from resnet_jax.data.tfds_sets import open_tfds
from resnet_jax.errors import ConfigError, InputFileError

NAMES = ['tench', 'a  b', '猫']
SIZES = {'train': 30, 'validation': 6, 'test': 9}


def build(root):
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (size, 5, 7, 3), np.uint8) for split, size in SIZES.items()}
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = 'flowers'
            VERSION = tfds.core.Version('1.2.0')

            def _info(self):
                features = {
                    'photo': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
                    'kind': tfds.features.ClassLabel(names=NAMES),
                    'place': tfds.features.ClassLabel(num_classes=5),
                    'file_name': tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=('photo', 'kind')
                )

            def _split_generators(self, _):
                return {split: self._generate_examples(split) for split in SIZES}

            def _generate_examples(self, split):
                for i, image in enumerate(images[split]):
                    yield i, {'photo': Image.fromarray(image), 'kind': i % 3, 'place': 4, 'file_name': f'{i}.png'}

    Builder(data_dir=root, file_format='array_record').download_and_prepare()


@pytest.fixture(scope='session')
def built_once(tmp_path_factory):
    root = tmp_path_factory.mktemp('tfds_sets')
    tfds.disable_progress_bar()
    build(root)
    return root


@pytest.fixture
def root(tmp_path, built_once):
    return shutil.copytree(built_once, tmp_path / 'root')


@pytest.fixture
def folder(root):
    return root / 'flowers' / '1.2.0'


def _open(root, path='flowers', **options):
    return open_tfds(f'tfds:{path}', path, LoadOptions(data_dir=str(root), **options))


def _fails(root, match, path='flowers'):
    with pytest.raises(InputFileError, match=match) as error:
        load_dataset(f'tfds:{path}', data_dir=str(root))
    assert not set('\n\x1b') & set(str(error.value)) and error.value.exit_code == 3


def _rewrite(folder, split, examples, file_format='array_record'):
    """Replaces the records of a split; an example is bytes, or (image file, label)."""
    (path,) = folder.glob(f'flowers-{split}.*')
    records = []
    for example in examples:
        if not isinstance(example, bytes):
            message = tf_example_pb2.Example()
            message.features.feature['photo'].bytes_list.value.append(example[0])
            message.features.feature['kind'].int64_list.value.append(example[1])
            example = message.SerializeToString()
        records.append(example)
    path.unlink()
    if file_format == 'tfrecord':
        path.with_name(path.name.replace('array_record', 'tfrecord')).write_bytes(frame(records))
    else:
        writer = ArrayRecordWriter(str(path), 'group_size:1')
        for record in records:
            writer.write(record)
        writer.close()
    _edit(folder, lambda info: next(s for s in info['splits'] if s['name'] == split).update(shardLengths=[str(len(records))]))


def _edit(folder, change, file='dataset_info.json'):
    described = json.loads((folder / file).read_text())
    change(described)
    (folder / file).write_text(json.dumps(described))


def _pairs(folder, split):
    """The image files and labels of a split in array_record."""
    (path,) = folder.glob(f'flowers-{split}.*')
    reader = ArrayRecordReader(str(path))
    features = [tf_example_pb2.Example.FromString(record).features.feature for record in reader.read_all()]
    reader.close()
    return [(feature['photo'].bytes_list.value[0], feature['kind'].int64_list.value[0]) for feature in features]


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, 'PNG')
    return buffer.getvalue()


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_the_images_labels_and_order_are_those_that_tfds_reads(root, folder, file_format):
    theirs = {split: list(tfds.builder_from_directory(folder).as_data_source(split)) for split in SIZES}
    if file_format == 'tfrecord':  # which tfds does not write without TensorFlow
        pairs = {split: _pairs(folder, split) for split in SIZES}
        for split in SIZES:
            _rewrite(folder, split, pairs[split], 'tfrecord')
        _edit(folder, lambda info: info.pop('fileFormat'))  # as tfds wrote it when there was no other format
    ours = load_dataset('tfds:flowers', data_dir=str(root))
    assert ours.class_names == tuple(NAMES) and ours.image_shape == (5, 7, 3)
    splits = []
    for split in ('train', 'test', 'validation'):
        images, labels = (np.stack([example[key] for example in theirs[split]]) for key in ('photo', 'kind'))
        np.testing.assert_array_equal(getattr(ours, split).image, images)
        np.testing.assert_array_equal(getattr(ours, split).label, labels)
        splits.append(Split(images, labels))
    assert ours.fingerprint == Fingerprint.of(*splits)


def test_records_are_read_one_at_a_time_from_any_process(root, folder):
    train = _open(root).train
    again = pickle.loads(pickle.dumps(train))
    for i in (29, 0, 7):
        assert train.read(i) == again.read(i) == _pairs(folder, 'train')[i][0]
    assert train.describe(7) == f'{folder}/flowers-train.array_record-00000-of-00001: record 7'


def test_several_shards_and_a_template(root, folder):
    expected = _open(root).train
    images = [expected.read(i) for i in range(30)]
    pairs = _pairs(folder, 'train')
    (path,) = folder.glob('flowers-train.*')
    path.unlink()
    for i, part in enumerate((pairs[:13], pairs[13:])):
        shard = folder / f'flowers-train.array_record-x{i}'
        shard.touch()
        _rewrite_one(shard, part)
    template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
    for i in range(2):
        (folder / f'flowers-train.array_record-x{i}').rename(folder / f'flowers-train.array_record-0000{i}-of-00002')
    _edit(folder, lambda info: _split(info, 'train').update(shardLengths=['13', '17'], filepathTemplate=template))
    train = _open(root).train
    assert [train.read(i) for i in range(30)] == images
    np.testing.assert_array_equal(train.label, expected.label)
    assert train.describe(13).endswith('00001-of-00002: record 0')


def _split(info, name):
    return next(split for split in info['splits'] if split['name'] == name)


def _rewrite_one(path, pairs):
    path.unlink()
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for image, label in pairs:
        message = tf_example_pb2.Example()
        message.features.feature['photo'].bytes_list.value.append(image)
        message.features.feature['kind'].int64_list.value.append(label)
        writer.write(message.SerializeToString())
    writer.close()


@pytest.mark.parametrize(
    'kept, sizes', [('train test', (30, 9, None)), ('train validation', (30, 6, None)), ('train', (24, 6, None))]
)
def test_which_splits_there_are(root, folder, kept, sizes):
    _edit(folder, lambda info: info.update(splits=[split for split in info['splits'] if split['name'] in kept.split()]))
    opened = _open(root)
    assert (len(opened.train.label), len(opened.test.label), opened.validation) == sizes
    assert np.bincount(opened.test.label).tolist() == [sizes[1] // 3] * 3


def test_a_test_split_without_labels_is_left_out(root, folder, caplog):
    _rewrite(folder, 'test', [(image, -1) for image, _ in _pairs(folder, 'test')])
    with caplog.at_level(logging.INFO):
        opened = _open(root)
    assert len(opened.test.label) == 6 and opened.validation is None and "'test' left out" in caplog.text


def test_the_labels_are_read_once(root, monkeypatch):
    first = _open(root)
    monkeypatch.setattr('resnet_jax.data.tfds_sets._scan', lambda *_: pytest.fail('read again'))
    assert _open(root).version == first.version


def test_the_newest_version_is_taken_and_any_other_by_name(root, folder):
    for version in ('1.10.0', '1.9.0'):
        shutil.copytree(folder, folder.parent / version)
    (folder.parent / 'incomplete.ABC_2.0.0').mkdir()
    assert '/1.10.0/' in _open(root).train.describe(0)
    assert '/1.9.0/' in _open(root, 'flowers:1.9.0').train.describe(0)
    _fails(root, r'no folder .*/flowers/3.0.0: found 1.10.0, 1.2.0, 1.9.0, incomplete', 'flowers:3.0.0')


def test_a_config_of_a_builder(root, folder):
    shutil.move(folder.parent, root / 'set' / 'small')
    assert len(_open(root, 'set/small').train.label) == 30
    _fails(root, r'no versions in .*/set: found small; expected a folder NAME/VERSION or NAME/CONFIG/VERSION', 'set')


def test_a_set_that_is_not_there(root):
    _fails(root, r"no data set 'roses' in .*: found flowers; .*data_dir", 'roses')
    _fails(root, r"no data set 'x{300}' in .*: found flowers; .*data_dir", 'x' * 300)
    _fails(root, r'no folder .*/x{300}/1.0.0: found nothing there', f'{"x" * 300}:1.0.0')
    _fails(root / 'nowhere', r"no data set 'roses' in .*: found nothing there", 'roses')
    for path in ('../x', '/etc', 'a/b/c', 'x:1', 'x:', '\x1b[2J'):
        with pytest.raises(ConfigError, match='is not a name: expected tfds:NAME'):
            _open(root, path)


def test_features_as_old_versions_of_tfds_wrote_them(root, folder):
    image = {'shape': [None, None, 3], 'dtype': 'uint8', 'encoding_format': 'png'}
    features = {
        'photo': {'type': 'tensorflow_datasets.core.features.image_feature.Image', 'content': image},
        'kind': {'type': 'tensorflow_datasets.core.features.class_label_feature.ClassLabel', 'content': {'num_classes': 3}},
    }
    described = {'type': 'tensorflow_datasets.core.features.features_dict.FeaturesDict', 'content': features}
    (folder / 'features.json').write_text(json.dumps(described))
    assert _open(root).class_names == tuple(NAMES)
    _edit(folder, lambda info: info.update(supervisedKeys={'input': 'photo', 'output': 'kind'}))
    (folder / 'kind.labels.txt').unlink()
    assert _open(root).class_names == ('0', '1', '2')


def test_keys_without_supervised_keys(root, folder):
    _edit(folder, lambda info: info.pop('supervisedKeys'))
    _fails(root, "photo: Image, .*: expected one ClassLabel, or one that is named 'label'")
    _edit(folder, lambda features: features['featuresDict']['features'].pop('place'), 'features.json')
    assert len(_open(root).train.label) == 30


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('text', [None, '', '{', '[]', '{}', '{"splits": 7, "name": 1}', '\x00', '{"featuresDict": 1}'])
def test_damaged_descriptions(root, folder, file, text):
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    _fails(root, f'{file}.*expected')


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json', 'kind.labels.txt', 'more.json', 'place.labels.txt'])
@pytest.mark.parametrize('kind', ['folder', 'pipe', 'link'])
def test_descriptions_that_are_no_files(root, folder, file, kind):
    (folder / file).unlink(missing_ok=True)
    if kind == 'folder':
        (folder / file).mkdir()
    elif kind == 'pipe':
        os.mkfifo(folder / file)
    else:
        (folder / file).symlink_to('nowhere')
    _fails(root, rf'{file} (is missing or damaged|cannot be read).*copy or prepare the folder again')


def test_class_names_in_lines_of_windows(root, folder):
    path = folder / 'kind.labels.txt'
    path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert path.read_bytes().count(b'\r\n') == 3 and _open(root).class_names == tuple(NAMES)


def test_two_classes_of_the_same_name(root, folder):
    (folder / 'kind.labels.txt').write_text('a\nb\na\n')
    _fails(root, 'kind.labels.txt names 3 classes, 2 of them different: expected a name of its own for each')


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda f: f['photo'].update(pythonClassName='tensorflow_datasets.x.audio_feature.Audio'), 'expected one Image'),
        (lambda f: [f.pop('kind'), f.pop('place')], 'expected one ClassLabel'),
        (lambda f: f['kind'].update(classLabel={'numClasses': '7'}), 'kind.labels.txt names 3 classes: expected 7'),
        (lambda f: f['kind'].update(classLabel={'numClasses': 'x'}), None),
    ],
)
def test_features_of_something_else(root, folder, change, match):
    _edit(folder, lambda features: change(features['featuresDict']['features']), 'features.json')
    if match:
        _fails(root, match)
    else:
        _open(root)


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda info: info.update(fileFormat='riegeli'), "says format 'riegeli': expected array_record or tfrecord"),
        (lambda info: info.update(splits=[]), "has no split 'train': found none"),
        (lambda info: info['splits'].pop(0), "has no split 'train'|no split"),
        (lambda info: info['splits'][0].update(shardLengths=['-1']), 'no sound list of splits'),
        (lambda info: info['splits'][0].update(filepathTemplate='../../{SPLIT}'), 'no sound list of splits'),
        (lambda info: info['splits'][0].update(filepathTemplate='/etc/passwd'), 'no sound list of splits'),
        (lambda info: info['splits'][0].update(filepathTemplate=7), 'no sound list of splits .*a template that is no text'),
        (lambda info: info['splits'][0].update(filepathTemplate='a\0b'), 'no sound list of splits .*a null byte'),
        (lambda info: info['splits'][0].update(filepathTemplate='a\ud800'), 'no sound list of splits .*surrogates'),
        (lambda info: info.update(name='a\0b'), 'no sound list of splits .*a null byte'),
        (lambda info: info['splits'][0].update(shardLengths=['7']), r'holds \d+ records: expected 7'),
        (lambda info: info['splits'][0].update(shardLengths=['15', '15']), 'cannot be read: No such file'),
    ],
)
def test_splits_of_something_else(root, folder, change, match):
    _edit(folder, lambda info: info['splits'].sort(key=lambda split: split['name'] != 'train'))
    _edit(folder, change)
    _fails(root, match)


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'html', 'gone'])
def test_damaged_shards(root, folder, file_format, damage):
    if file_format == 'tfrecord':
        pairs = {split: _pairs(folder, split) for split in SIZES}
        for split in SIZES:
            _rewrite(folder, split, pairs[split], 'tfrecord')
        _edit(folder, lambda info: info.update(fileFormat='tfrecord'))
    (path,) = folder.glob('flowers-train.*')
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if file_format == 'tfrecord' else 1000] ^= 1  # in an array_record file much is padding
    changed = {'cut': data[: len(data) // 2], 'flip': data, 'empty': b'', 'html': b'<html>no</html>' * 999}
    path.unlink()
    if damage != 'gone':
        path.write_bytes(changed[damage])
    _fails(root, rf'{path.name}.*(damaged|holds \d+ records|cannot be read)')


GOOD = _png(np.zeros((5, 7, 3), np.uint8))


@pytest.mark.parametrize(
    'record, match',
    [
        (b'\xff\xff', 'record 3 is damaged|record 3'),
        (b'', "record 3 has 0 values of 'kind': expected one"),
        ((GOOD, 3), "record 3: label 3 in split 'train': expected 0 to 2"),
        ((GOOD, -1), "record 3: label -1 in split 'train': expected 0 to 2"),
        ((GOOD, 2**40), 'record 3 has label 1099511627776'),
        ((b'GIF89a', 0), 'record 3 cannot be read'),
        ((GOOD[:45], 0), 'record 3 cannot be read'),
    ],
)
def test_records_of_something_else(root, folder, record, match):
    pairs = _pairs(folder, 'train')
    pairs[3] = record
    _rewrite(folder, 'train', pairs)
    _fails(root, match)


def test_a_class_without_test_images(root, folder):
    _rewrite(folder, 'test', [pair for pair in _pairs(folder, 'test') if pair[1] != 1])
    _fails(root, "class 'a  b' has no test images: expected some of each class in each split")


def test_a_file_that_changes_after_it_was_opened(root, folder):
    train = _open(root).train
    (path,) = folder.glob('flowers-train.*')
    os.utime(path, (1, 1))
    with pytest.raises(InputFileError, match='was changed while the data set was read'):
        train.read(0)


def test_a_command_says_it_in_one_line(root):
    command = [sys.executable, 'bin/data.py', 'tfds:roses']
    environment = os.environ | {'TFDS_DATA_DIR': str(root)}
    result = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert result.returncode == 3 and len(result.stderr.splitlines()) == 1 and result.stdout == ''
    assert result.stderr.startswith("error: no data set 'roses' in ")


def test_a_file_stays_open_while_it_is_read_whoever_puts_it_into_the_cache(root, folder, monkeypatch):
    """Two threads may open a file at once, and the cache keeps one of the descriptors."""
    pairs = {split: _pairs(folder, split) for split in SIZES}
    for split in SIZES:
        _rewrite(folder, split, pairs[split], 'tfrecord')
    _edit(folder, lambda info: info.pop('fileFormat'))
    monkeypatch.setattr(tfds_sets, '_descriptor', lambda file: tfds_sets._Descriptor(file.path))
    assert len(load_dataset('tfds:flowers', data_dir=str(root)).train.label) == SIZES['train']
