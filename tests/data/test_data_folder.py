"""Images in class folders: which files count, in which order, and what is wrong with a folder."""

import logging
import os
import re

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import LoadOptions, load_dataset
from resnet_jax.data.folder import _Walk, open_folder
from resnet_jax.errors import ConfigError, InputFileError


def write(path, value=100, size=(8, 8), mode='RGB', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ('L', 'I;16', 'P') else tuple(range(value, value + len(mode)))
    Image.new(mode, size, colour).save(path, **options)
    return path


def small(root, parts=('train', 'val'), classes=('cat', 'dog'), count=2):
    for part in parts:
        for number, name in enumerate(classes):
            for i in range(count):
                write(root / part / name / f'{i}.png', 10 * number + i)
    return root


def names(split):
    return [os.path.basename(split.describe(i)) for i in range(len(split.label))]  # noqa: PTH119


def load(root, **options):
    return load_dataset(f'folder:{root}', **options)


def test_splits_classes_pixels_and_order(tmp_path):
    for part, offset in (('train', 0), ('val', 100)):
        for i, name in enumerate(['dog', 'cat', 'dog', 'cat']):
            write(tmp_path / part / name / f'{i:02}.png', offset + i)
    dataset = load(tmp_path)
    assert dataset.name == f'folder:{tmp_path}' and dataset.class_names == ('cat', 'dog')
    # Numbers that count through the classes keep their order.
    np.testing.assert_array_equal(dataset.train.label, [1, 0, 1, 0])
    for split, offset in ((dataset.train, 0), (dataset.test, 100)):
        assert split.image.shape == (4, 8, 8, 3) and split.image.dtype == np.uint8 and split.label.dtype == np.int32
        np.testing.assert_array_equal(split.image[:, 3, 4], [[offset + i, offset + i + 1, offset + i + 2] for i in range(4)])
    values = np.array([[i, i + 1, i + 2] for i in range(4)]) / 255
    np.testing.assert_allclose(dataset.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std(axis=0), rtol=1e-9)


def test_with_val_and_test_the_first_validates(tmp_path):
    small(tmp_path, ('train', 'Validation', 'test'))
    encoded = open_folder('x', str(tmp_path), LoadOptions())
    assert encoded.validation is not None and 'Validation' in encoded.validation.describe(0)
    assert f'{os.sep}test{os.sep}' in encoded.test.describe(0)
    assert len(load(tmp_path).validation.label) == 4


def test_without_a_test_folder_a_share_of_each_class_tests(tmp_path):
    root = small(tmp_path / 'set', ('',), count=10)
    dataset = load(root, test_fraction=0.3)
    assert np.bincount(dataset.train.label).tolist() == [7, 7] and np.bincount(dataset.test.label).tolist() == [3, 3]
    again = load(root, test_fraction=0.3)
    assert again.fingerprint == dataset.fingerprint
    assert load(root, test_fraction=0.5).fingerprint != dataset.fingerprint
    both = np.concatenate([dataset.train.image, dataset.test.image])[:, 0, 0, 0]
    assert sorted(both) == sorted([*range(10), *range(10, 20)])


def test_every_class_trains_and_tests(tmp_path):
    root = small(tmp_path / 'set', ('',), count=2)
    assert np.bincount(load(root, test_fraction=0.01).test.label).tolist() == [1, 1]
    assert np.bincount(load(root, test_fraction=0.99).train.label).tolist() == [1, 1]


def test_what_does_not_count_is_left_out_and_counted(tmp_path, caplog):
    root = small(tmp_path / 'set')
    (root / '.DS_Store').touch()
    (root / 'train' / '.DS_Store').touch()
    (root / 'train' / 'cat' / 'Thumbs.db').touch()
    (root / 'train' / 'cat' / '.hidden.png').touch()
    (root / 'train' / '.cache').mkdir()
    write(root / 'train' / 'loose.png')
    write(tmp_path / 'elsewhere.png')
    (root / 'train' / 'cat' / 'link.png').symlink_to(tmp_path / 'elsewhere.png')
    (root / 'train' / 'cat' / 'dead.png').symlink_to(tmp_path / 'nowhere.png')
    (root / 'train' / 'cat' / 'inside.png').symlink_to(root / 'val' / 'cat' / '0.png')
    (root / 'train' / 'cat' / 'again').symlink_to(root / 'train' / 'cat')
    os.mkfifo(root / 'train' / 'cat' / 'pipe.png')
    with caplog.at_level(logging.INFO):
        encoded = open_folder('x', str(root), LoadOptions())
    assert sorted(names(encoded.train)) == ['0.png', '0.png', '1.png', '1.png', 'inside.png']
    line = next(record.getMessage() for record in caplog.records)
    expected = (
        '4 hidden, 1 not images, 1 outside the folders of classes, 1 links out of the folder, 1 broken links, 1 not files'
    )
    for part in expected.split(', '):
        assert part in line
    followed = open_folder('x', str(root), LoadOptions(follow_links=True))
    assert 'link.png' in names(followed.train) and 'dead.png' not in names(followed.train)


def test_folders_within_a_class_belong_to_it(tmp_path):
    small(tmp_path)
    write(tmp_path / 'train' / 'cat' / 'black' / 'at night' / 'x.PNG')
    assert load(tmp_path).train.label.tolist().count(0) == 3


def test_strange_names_of_classes(tmp_path):
    classes = ('a b', 'new\nline', '猫 🐈', "quote'")
    small(tmp_path, classes=classes)
    assert load(tmp_path).class_names == tuple(sorted(classes))


def test_folders_that_links_reach_in_many_ways_are_read_once(tmp_path):
    for class_name in ('cat', 'dog'):
        for i in range(36):
            level = tmp_path / 'set' / class_name / f'{i}'
            level.mkdir(parents=True)
            for name in 'xy' if i else '':
                (level / name).symlink_to(f'../{i - 1}')  # 2^35 ways to the first
        write(tmp_path / 'set' / class_name / '0' / '1.png')
        write(tmp_path / 'set' / class_name / '0' / '2.png')
    dataset = open_folder('x', str(tmp_path / 'set'), LoadOptions())
    assert len(dataset.train.label) + len(dataset.test.label) == 4


def test_a_link_to_the_folder_and_a_home(tmp_path, monkeypatch):
    small(tmp_path / 'set')
    (tmp_path / 'link').symlink_to(tmp_path / 'set')
    assert len(load(tmp_path / 'link').train.label) == 4
    monkeypatch.setenv('HOME', str(tmp_path))
    assert len(load('~/set').train.label) == 4


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda root: None, 'is not a folder; expected one folder of images for each class'),
        (lambda root: root.mkdir(), 'holds no images; expected one folder of images for each class'),
        (lambda root: small(root, ('',), ('cat',)), "holds one class, 'cat'; expected one folder"),
        (lambda root: small(root, ('',), count=1), "class 'cat' has 1 image: expected two or more"),
        (lambda root: small(root, ('train', 'val'), ('only',)), "holds one class, 'only'"),
        (
            lambda root: (small(root), write(root / 'train' / 'emu' / '1.png')),
            "emu' holds no images: expected some of each class in",
        ),
        (lambda root: (small(root, ('',)), (root / 'emu').mkdir()), "emu' holds no images: expected some of each class; add"),
    ],
    ids=['missing', 'empty', 'one class', 'two images', 'one class of two splits', 'in one split', 'empty class'],
)
def test_a_folder_that_is_no_data_set(tmp_path, make, message):
    make(tmp_path / 'set')
    with pytest.raises(InputFileError, match=re.escape(message)) as raised:
        load(tmp_path / 'set')
    assert '\n' not in str(raised.value)


def test_no_path_and_a_forgotten_scheme(tmp_path):
    with pytest.raises(ConfigError, match='has no path: expected one behind the colon, as folder:PATH'):
        load_dataset('folder:')
    with pytest.raises(ConfigError, match=re.escape(f'for a folder of images, folder:{tmp_path}')):
        load_dataset(str(tmp_path))


def test_a_file_that_changes_while_it_is_read(tmp_path):
    encoded = open_folder('x', str(small(tmp_path)), LoadOptions())
    path = tmp_path / 'train' / 'cat' / '0.png'
    data = path.read_bytes()
    path.write_bytes(data + b'more')
    with pytest.raises(InputFileError, match=r'0\.png was changed while the data set was read; start again'):
        encoded.train.read(0)
    path.unlink()
    with pytest.raises(InputFileError, match=r'0\.png cannot be read: No such file'):
        encoded.train.read(0)


def test_ten_thousand_classes(tmp_path):
    """The work grows with the number of files, not with classes times files."""
    image = write(tmp_path / 'image.png', size=(1, 1))
    for i in range(10_000):
        folder = tmp_path / 'set' / f'{i:05}'
        folder.mkdir(parents=True)
        for j in range(2):
            os.link(image, folder / f'{j}.png')
    encoded = open_folder('x', str(tmp_path / 'set'), LoadOptions())
    assert len(encoded.class_names) == 10_000 and len(encoded.test.label) == 10_000


def test_links_to_folders_elsewhere_are_no_splits(tmp_path, caplog):
    small(tmp_path / 'elsewhere')
    root = tmp_path / 'set'
    root.mkdir()
    for part in ('train', 'val'):
        (root / part).symlink_to(tmp_path / 'elsewhere' / part)
    with caplog.at_level(logging.INFO), pytest.raises(InputFileError, match='holds no images'):
        load(root)
    assert '2 links out of the folder' in caplog.text
    assert len(load(root, follow_links=True).train.label) == 4


@pytest.mark.parametrize('parts', [('Training', 'Testing'), ('training', 'dev'), ('TRAIN', 'valid')])
def test_other_names_of_the_splits(tmp_path, parts):
    dataset = load(small(tmp_path / 'set', parts))
    assert dataset.class_names == ('cat', 'dog') and len(dataset.test.label) == 4


def test_a_training_folder_alone_is_divided(tmp_path):
    dataset = load(small(tmp_path / 'set', ['train'], count=5))
    assert dataset.class_names == ('cat', 'dog') and (len(dataset.train.label), len(dataset.test.label)) == (8, 2)


def test_classes_may_have_the_names_of_splits(tmp_path):
    assert load(small(tmp_path / 'a', ['.'], ('bus', 'train'), 5)).class_names == ('bus', 'train')
    assert load(small(tmp_path / 'b', ['.'], ('exam', 'test', 'val'), 5)).class_names == ('exam', 'test', 'val')


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (('val', 'test'), 'has val/ and test/ but no train/; expected'),
        (('train', 'val', 'valid'), "has 'val' and 'valid'; expected one of them"),
        (('train', 'Train', 'test'), "has 'Train' and 'train'; expected one of them"),
    ],
)
def test_folders_that_may_be_several_splits(tmp_path, parts, message):
    with pytest.raises(InputFileError, match=message):
        load(small(tmp_path / 'set', parts))


def test_what_lies_beside_the_splits_is_counted(tmp_path):
    root = small(tmp_path / 'set')
    write(root / 'loose.png')
    small(root / 'old', ['.'])
    (line,) = (note for note in load(root).notes if 'left out' in note)
    assert '1 outside the folders of classes' in line and '1 folders that are no split' in line


def test_a_path_that_is_too_long_is_no_folder(tmp_path):
    with pytest.raises(InputFileError, match='is not a folder'):
        load(tmp_path / ('x' * 5000))


def test_a_folder_that_may_be_listed_and_not_entered(tmp_path, monkeypatch):
    root = small(tmp_path / 'set')

    class Closed:
        """An entry of such a folder; root may enter any."""

        def __init__(self, entry):
            self.name, self.path = entry.name, entry.path
            self.is_dir, self.is_symlink = entry.is_dir, entry.is_symlink

        def stat(self):
            raise PermissionError(13, 'Permission denied')

    entries = _Walk._entries
    monkeypatch.setattr(_Walk, '_entries', lambda walk, path: [Closed(entry) for entry in entries(walk, path)])
    with pytest.raises(InputFileError, match=r'cannot read .*/cat/0\.png: Permission denied; change the permissions'):
        load(root)
