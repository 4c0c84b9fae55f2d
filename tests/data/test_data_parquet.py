"""`parquet:PATH`: tables that pyarrow wrote in the layout of Hugging Face's `datasets`."""

import io
import logging
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cifar_copies import png, write_table
from PIL import Image

from resnet_jax.data import load_dataset
from resnet_jax.data import parquet as parquet_module
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.parquet import Rows, find_tables, open_parquet
from resnet_jax.data.split import Fingerprint, Split
from resnet_jax.errors import InputFileError

NAMES = ['tench', 'a  b', '猫']
FEATURES = {'image': {'_type': 'Image'}, 'label': {'_type': 'ClassLabel', 'names': NAMES}}
RNG = np.random.default_rng(0)
IMAGES = {
    part: RNG.integers(0, 256, (size, 5, 7, 3), np.uint8) for part, size in (('train', 30), ('validation', 6), ('test', 9))
}
LABELS = {part: np.arange(len(images), dtype=np.int32) % 3 for part, images in IMAGES.items()}


def columns(part='train', rows=slice(None), **changes):
    images = [{'bytes': png(image), 'path': f'{i}.png'} for i, image in enumerate(IMAGES[part][rows])]
    return {'image': images, 'label': LABELS[part][rows].tolist(), 'more': ['x'] * len(images), **changes}


def write(path, part='train', rows=slice(None), features=FEATURES, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, columns(part, rows, **changes), features, row_group_size=8)


@pytest.fixture
def folder(tmp_path):
    """All three splits, the training split in two files."""
    folder = tmp_path / 'tables'
    for i in range(2):
        write(folder / 'data' / f'train-0000{i}-of-00002.parquet', rows=slice(17 * i, 17 * i + 17))
    for part in ('validation', 'test'):
        write(folder / 'data' / f'{part}-00000-of-00001-0123abcd.parquet', part)
    return folder


def _open(path, **options):
    return open_parquet('parquet:x', str(path), LoadOptions(**options))


def _fails(path, match):
    with pytest.raises(InputFileError, match=match) as error:
        load_dataset(f'parquet:{path}')
    assert not set('\n\x1b') & set(str(error.value)) and error.value.exit_code == 3


def test_all_splits_and_shards(folder):
    dataset = load_dataset(f'parquet:{folder}')
    assert dataset.class_names == tuple(NAMES)
    splits = [Split(IMAGES[part], LABELS[part]) for part in ('train', 'test', 'validation')]
    for ours, theirs in zip((dataset.train, dataset.test, dataset.validation), splits, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
    assert dataset.fingerprint == Fingerprint.of(*splits)


def test_rows_are_read_by_group(folder, monkeypatch):
    read = []
    original = pq.ParquetFile.read_row_group

    def counted(self, group, names):
        read.append(group)
        return original(self, group, names)

    monkeypatch.setattr(pq.ParquetFile, 'read_row_group', counted)
    parquet_module._images.cache_clear()
    train = pickle.loads(pickle.dumps(_open(folder).train))
    assert read == []
    assert [train.read(i) for i in range(30)] == [png(image) for image in IMAGES['train']]
    assert read == [0, 1, 2, 0, 1]  # 17 rows in groups of 8, then 13
    assert train.describe(17 + 9) == f'{folder}/data/train-00001-of-00002.parquet: row 9'


@pytest.mark.parametrize(
    'names, sizes',
    [
        ({'train': 'train', 'test': 'test'}, (30, 9, None)),
        ({'train': 'train', 'validation': 'valid'}, (30, 6, None)),
        ({'train': 'train/0000', 'test': 'test/0000'}, (30, 9, None)),
        ({'train': 'plain_text/train/0000', 'validation': 'plain_text/val/0000'}, (30, 6, None)),
        ({'train': 'train_1', 'test': 'TEST.x'}, (30, 9, None)),
        ({'train': 'data'}, (24, 6, None)),
        ({'train': 'train'}, (24, 6, None)),
    ],
)
def test_which_files_are_which_split(names, sizes, tmp_path):
    for part, name in names.items():
        write(tmp_path / 'x' / f'{name}.parquet', part)
    (tmp_path / 'x' / '.hidden').mkdir()
    write(tmp_path / 'x' / '.hidden' / 'test-0.parquet', 'test')
    opened = _open(tmp_path / 'x')
    assert (len(opened.train.label), len(opened.test.label), opened.validation) == sizes


def test_one_file_is_split_by_class(folder):
    opened = _open(folder / 'data' / 'test-00000-of-00001-0123abcd.parquet', test_fraction=0.34)
    assert np.bincount(opened.test.label).tolist() == [1, 1, 1] and len(opened.train.label) == 6


@pytest.mark.parametrize('kind', ['img', 'binary', 'large', 'dictionary', 'fine_label', 'without_description'])
def test_other_columns(kind, tmp_path):
    data, features = columns(), dict(FEATURES)
    if kind == 'img':
        data['img'], features['img'] = data.pop('image'), features.pop('image')
    elif kind in ('binary', 'large'):
        plain = [image['bytes'] for image in data['image']]
        data['image'] = pa.array(plain, pa.binary() if kind == 'binary' else pa.large_binary())
    elif kind == 'dictionary':
        data['label'] = pa.array([NAMES[label] for label in data['label']]).dictionary_encode()
    elif kind == 'fine_label':
        data['fine_label'], features['fine_label'] = data.pop('label'), features.pop('label')
        data['coarse_label'], features['coarse_label'] = [0] * 30, {'_type': 'ClassLabel', 'names': ['a', 'b']}
    else:
        features = None
    write_table(tmp_path / 'x.parquet', data, features)
    opened = _open(tmp_path / 'x.parquet')
    expected = {'dictionary': tuple(sorted(NAMES)), 'without_description': ('0', '1', '2')}
    assert opened.class_names == expected.get(kind, tuple(NAMES))
    assert {opened.train.read(i) for i in range(24)} < {png(image) for image in IMAGES['train']}


def test_labels_without_names_may_have_gaps(tmp_path):
    write(tmp_path / 'train.parquet', features=None, label=[(7, 2, 40)[i % 3] for i in range(30)])
    opened = _open(tmp_path / 'train.parquet')
    assert opened.class_names == ('2', '7', '40') and set(opened.train.label) == {0, 1, 2}


def test_the_version_follows_the_files(folder):
    first = _open(folder).version
    assert _open(folder).version == first
    os.utime(folder / 'data' / 'test-00000-of-00001-0123abcd.parquet', (1, 1))
    assert _open(folder).version != first


def test_other_files_are_left_out(folder, caplog):
    write(folder / 'data' / 'unlabelled-0.parquet')
    with caplog.at_level(logging.INFO):
        assert len(_open(folder).train.label) == 30
    assert '1 .parquet files of other splits left out' in caplog.text


def test_a_split_without_labels_is_left_out(folder):
    write(folder / 'data' / 'test-00000-of-00001-0123abcd.parquet', 'test', label=[-1] * 9)
    opened = _open(folder)
    assert len(opened.test.label) == 6 and opened.validation is None


def test_several_data_sets_in_one_folder(folder):
    write(folder / 'other' / 'train-0.parquet')
    _fails(folder, 'holds several data sets, in .*data, .*other: expected one; add a folder to the path')


def test_nothing_there(tmp_path):
    _fails(tmp_path, 'holds no .parquet files; expected a .parquet file')
    _fails(tmp_path / 'x', 'does not exist; expected a .parquet file')
    _fails(tmp_path / ('x' * 5000), 'does not exist; expected a .parquet file')
    write(tmp_path / 'test-0.parquet', 'test')
    _fails(tmp_path, 'holds no training split, only test')


@pytest.mark.parametrize(
    'changes, match',
    [
        ({'image': None}, "columns label: .*, more: string: expected one for the image, named image or img"),
        ({'label': None}, 'expected one for the label, named label or labels or fine_label'),
        ({'label': [0, None] * 15}, "row 1 has no 'label': expected a class"),
        ({'label': [0, 1, 3] * 10}, 'row 2: label 3: expected 0 to 2'),
        ({'label': [0, 1, -1] * 10}, 'row 2: label -1: expected 0 to 2'),
        ({'label': [0.5] * 30}, "column 'label' is double: expected integers or text"),
        ({'image': ['a.png'] * 30}, "column 'image' is string: expected bytes"),
        ({'image': [{'path': 'a.png'}] * 30}, "column 'image' is struct.*expected bytes"),
        ({'image': [{'bytes': None, 'path': 'a.png'}, {'bytes': b'x', 'path': None}] * 15}, r'row \d+ has no image'),
        ({'image': [{'bytes': b'GIF89a', 'path': None}] * 30}, r'row \d+ cannot be read'),
        ({'label': [0] * 30}, "class 'a  b' has 0 images: expected two or more"),
    ],
)  # fmt: skip
def test_tables_of_something_else(changes, match, tmp_path):
    data = {key: value for key, value in columns(**changes).items() if value is not None}
    write_table(tmp_path / 'x.parquet', data, FEATURES)
    _fails(tmp_path / 'x.parquet', match)


def test_one_class(tmp_path):
    write(tmp_path / 'x.parquet', features=None, label=[4] * 30)
    _fails(tmp_path / 'x.parquet', 'has 1 class: expected two or more')


def test_a_class_without_test_images(folder):
    write(folder / 'data' / 'test-00000-of-00001-0123abcd.parquet', 'test', rows=[0, 1, 3, 4])
    _fails(folder, "class '猫' has no test images")


def _class_label(*names):
    return {**FEATURES, 'label': {'_type': 'ClassLabel', 'names': list(names)}}


@pytest.mark.parametrize('file', ['train-00001-of-00002', 'validation-00000-of-00001-0123abcd', 'test-00000-of-00001-0123abcd'])
@pytest.mark.parametrize(
    'features, changes, match',
    [
        (_class_label('a  b', 'tench', '猫'), {}, "the name of class 0 is 'a  b': expected 'tench'"),
        (_class_label('tench', 'a  b'), {}, "the name of class 2 is none: expected '猫'"),
        (_class_label(*NAMES, '\x1b'), {}, r"the name of class 3 is '\\x1b': expected none"),
        (None, {}, "the name of class 0 is none: expected 'tench'"),
        (FEATURES, {'label': ['x'] * 6}, "column 'label' is text: expected integers"),
        (FEATURES, {'label': [0.5] * 6}, "column 'label' is double: expected integers"),
        (FEATURES, {'label': None}, "column 'label' is missing: expected integers"),
        (None, {'image': None, 'img': [b'x'] * 6}, "column 'image' is missing: expected structs with bytes"),
        (FEATURES, {'image': [b'x'] * 6}, "column 'image' is bytes: expected structs with bytes"),
        (FEATURES, {'image': ['x'] * 6}, "column 'image' is text: expected structs with bytes"),
    ],
)
def test_files_that_do_not_fit_together(folder, file, features, changes, match):
    data = {key: value for key, value in columns('validation', **changes).items() if value is not None}
    write_table(folder / 'data' / f'{file}.parquet', data, features)
    _fails(folder, rf'{file}\.parquet: {match}, as in .*train-00000-of-00002\.parquet; write all files with the same columns')


def test_rows_without_the_column_of_the_image(folder):
    (file, _) = find_tables(folder)['train']
    with pytest.raises(InputFileError, match='row group 0 cannot be read'):
        Rows([file], 'img.bytes', LABELS['train']).read(0)


def test_long_class_names_are_compared_to_their_end(folder):
    for file in ('train-00000-of-00002', 'train-00001-of-00002', 'validation-00000-of-00001-0123abcd'):
        write(folder / 'data' / f'{file}.parquet', features=_class_label('x' * 99 + 'a', 'x' * 99 + 'b', 'c'))
    path = folder / 'data' / 'test-00000-of-00001-0123abcd.parquet'
    write(path, features=_class_label('x' * 99 + 'b', 'x' * 99 + 'a', 'c'))
    _fails(folder, f'{path.name}: the name of class 0 is ')


def test_files_may_differ_in_other_columns_and_in_the_width_of_the_types(folder):
    path = folder / 'data' / 'test-00000-of-00001-0123abcd.parquet'
    data = columns('test', label=pa.array(LABELS['test'], pa.int8()), other=[0] * 9)
    del data['more']
    write_table(path, data, FEATURES)
    np.testing.assert_array_equal(_open(folder).test.label, LABELS['test'])


@pytest.mark.parametrize('features', [None, FEATURES])
@pytest.mark.parametrize('name', ['image', 'label'])
def test_two_columns_of_the_same_name(name, features, tmp_path):
    for part in ('train', 'test'):
        write(tmp_path / f'{part}.parquet', part, features=features)
    table = pq.read_table(tmp_path / 'test.parquet')
    pq.write_table(table.append_column(name, table.column(name)), tmp_path / 'test.parquet')
    _fails(tmp_path / 'test.parquet', f'test.parquet has 2 columns named {name!r}: expected one')
    _fails(tmp_path, rf'test.parquet: column {name!r} is there 2 times: expected .*, as in .*train.parquet')


def test_two_classes_of_the_same_name(tmp_path):
    write(tmp_path / 'x.parquet', features=_class_label('a', 'b\n', 'b\n'))
    _fails(tmp_path / 'x.parquet', r"has two classes named 'b\\n': expected a name of its own for each")


@pytest.mark.parametrize('features', [None, FEATURES])
@pytest.mark.parametrize(
    'labels, kind, match',
    [
        ([0, 1, -1], pa.int64(), 'row 2: label -1: expected 0 '),
        ([0, 1, -(2**40)], pa.int64(), 'row 2: label -1099511627776: expected 0 '),
        ([0, 1, 2**31], pa.int64(), 'row 2: label 2147483648: expected at most 2147483647'),
        ([0, 1, 2**64 - 1], pa.uint64(), 'row 2: label 18446744073709551615: expected at most 2147483647'),
        ([2**64 - 1] * 3, pa.uint64(), 'row 0: label 18446744073709551615: expected at most 2147483647'),
    ],
)
def test_labels_out_of_range(folder, features, labels, kind, match):
    for part in IMAGES:
        for path in (folder / 'data').glob(f'{part}-*'):
            write(path, part, features=features)
    path = folder / 'data' / 'test-00000-of-00001-0123abcd.parquet'
    write(path, 'test', features=features, label=pa.array(labels * 3, kind))
    _fails(folder, f'{path.name}: {match}')


@pytest.mark.parametrize('damage', ['empty', 'html', 'cut', 'footer', 'page', 'folder', 'pipe'])
def test_damaged_files(damage, folder):
    path = folder / 'data' / 'train-00001-of-00002.parquet'
    data = bytearray(path.read_bytes())
    if damage == 'page':
        data[20:1500] = bytes(1480)
    elif damage == 'footer':
        data[-6] ^= 0x40  # the length of what describes the table
    path.unlink()
    if damage == 'folder':
        path.mkdir()
    elif damage == 'pipe':
        os.mkfifo(path)
    else:
        path.write_bytes({'empty': b'', 'html': b'<html>' * 99, 'cut': data[:1000]}.get(damage, data))
    _fails(folder, f'{path.name}.*(cannot be read|row)')


def test_a_flipped_bit_is_noticed_where_pages_have_checksums(tmp_path):
    write_table(tmp_path / 'x.parquet', columns(), FEATURES, write_page_checksum=True, compression='none')
    data = bytearray((tmp_path / 'x.parquet').read_bytes())
    place = data.find(png(IMAGES['train'][11])) + 50
    data[place] ^= 1
    (tmp_path / 'x.parquet').write_bytes(data)
    _fails(tmp_path / 'x.parquet', 'row group 0 cannot be read: .*CRC')


def test_a_row_group_that_is_too_large(folder, monkeypatch):
    monkeypatch.setattr(parquet_module, '_LARGEST_GROUP', 1000)
    parquet_module._images.cache_clear()
    _fails(folder, 'row group 0 has .* GiB: expected at most .* row_group_size=1000')


def test_a_file_that_changes_after_it_was_opened(folder):
    train = _open(folder).train
    os.utime(folder / 'data' / 'train-00000-of-00002.parquet', (1, 1))
    with pytest.raises(InputFileError, match='was changed while the data set was read'):
        train.read(0)


def test_another_table_of_the_same_size_and_time_is_another_data_set(tmp_path):
    seen = []
    for name, grey in (('fog', 200), ('snow', 240)):
        (tmp_path / name).mkdir()
        file = io.BytesIO()
        Image.new('L', (8, 8), grey).save(file, 'BMP')
        images = [file.getvalue()] * 4
        pq.write_table(pa.table({'image': images, 'label': [0, 1, 0, 1]}), tmp_path / name / 'train.parquet', compression=None)
        os.utime(tmp_path / name / 'train.parquet', (0, 0))
        seen.append(load_dataset(f'parquet:{tmp_path / name}').train.image.max())
    assert seen == [200, 240]
