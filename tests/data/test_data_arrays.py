"""Data sets of arrays, from a file and from Python."""

import re
import tracemalloc

import numpy as np
import pytest

import resnet_jax
from resnet_jax.data import load_dataset
from resnet_jax.data.statistics import ChannelHistogram
from resnet_jax.errors import ConfigError, InputFileError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
LABELS = np.arange(12) % 3


def save(path, **arrays):
    np.savez(path, **arrays)
    return f'arrays:{path}'


def test_from_python_and_from_a_file(tmp_path):
    names, test = ('x', 'y', 'z'), (IMAGES[:3], LABELS[:3])
    made = resnet_jax.load_dataset(IMAGES, LABELS, test_images=test[0], test_labels=test[1], class_names=names)
    assert made.name == 'arrays' and made.class_names == names and made.image_shape == (6, 6, 3)
    np.testing.assert_array_equal(made.train.image, IMAGES)
    np.testing.assert_allclose(made.mean, IMAGES.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(made.std, (IMAGES / 255).std(axis=(0, 1, 2)), rtol=1e-9)
    name = save(tmp_path / 'a.npz', image=IMAGES, label=LABELS, test_image=test[0], test_label=test[1], class_names=names)
    read = load_dataset(name)
    assert read.name == name and read.fingerprint == made.fingerprint and read.class_names == names


def test_without_a_test_split_names_and_channels():
    dataset = load_dataset(IMAGES[..., 0], LABELS, test_fraction=0.5)
    assert dataset.image_shape == (6, 6, 1) and dataset.class_names == ('0', '1', '2')
    assert np.bincount(dataset.train.label).tolist() == np.bincount(dataset.test.label).tolist() == [2, 2, 2]


def test_another_size_and_normalization():
    dataset = load_dataset(IMAGES, LABELS, image_size=12, normalization='half')
    assert dataset.train.image.shape[1:] == (12, 12, 3) and dataset.mean == (0.5,) * 3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'images': IMAGES / 255}, 'images are float64[12, 6, 6, 3]: expected uint8'),
        ({'images': IMAGES[..., :2]}, 'images are uint8[12, 6, 6, 2]: expected'),
        ({'images': IMAGES[:0], 'labels': LABELS[:0]}, 'images are uint8[0, 6, 6, 3]: expected'),
        ({'labels': LABELS[:5]}, 'labels are int64[5]: expected integers [12]'),
        ({'labels': LABELS / 1.0}, 'labels are float64[12]: expected integers [12]'),
        ({'labels': LABELS - 1}, 'labels are from -1 to 1: expected 0 to the number of classes - 1'),
        ({'labels': LABELS * 1000}, 'a label is 2000, more than there are images'),
        ({'images': [IMAGES[0], IMAGES[1, :5]]}, 'images are of several shapes and make no array: expected images of one size'),
        ({'images': [IMAGES[0], IMAGES[1, :, :5]]}, 'images are of several shapes and make no array'),
        ({'labels': [0, [1, 2], 1]}, 'labels are of several shapes and make no array: expected an integer for each image'),
        ({'test_images': [IMAGES[0], IMAGES[1, :5]], 'test_labels': LABELS[:2]}, 'test images are of several shapes'),
        ({'labels': LABELS * 0}, 'all labels are 0, which makes one class: expected two classes or more'),
        ({'labels': LABELS * 0, 'class_names': ('a',)}, 'all labels are 0, which makes one class'),
        ({'class_names': ('a',)}, '1 class name, 1 of them different, for labels up to 2'),
        ({'class_names': (b'\xff', 'b', 'c')}, r"the class name b'\xff' is not UTF-8: expected text"),
        ({'class_names': 3}, 'class_names is 3: expected a name for each class'),
        ({'labels': LABELS * 2}, "class '1' has 0 images: expected two or more"),
        ({'class_names': ('a', 'b')}, '2 class names, 2 of them different, for labels up to 2'),
        ({'class_names': ('a', 'b', 'a')}, '3 class names, 2 of them different'),
        ({'test_images': IMAGES}, 'test images or test labels are missing'),
        ({'test_images': IMAGES[:, :5], 'test_labels': LABELS}, 'training images are (6, 6, 3) and test images (5, 6, 3)'),
        ({'test_images': IMAGES[:1], 'test_labels': LABELS[:1]}, "class '1' has no test images"),
        ({'labels': None}, 'labels are missing: expected load_dataset(images, labels)'),
        ({'size': 3}, "unknown option 'size'"),
        ({'image_sise': 3}, "unknown option 'image_sise'; did you mean 'image_size'?"),
    ],
)
def test_arrays_that_make_no_data_set(change, message):
    arguments = {'images': IMAGES, 'labels': LABELS, **change}
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_dataset(arguments.pop('images'), **arguments)


def test_class_names_become_text(tmp_path):
    assert load_dataset(IMAGES, LABELS, class_names=[3, np.int64(5), 'b']).class_names == ('3', '5', 'b')
    encoded = np.array([name.encode() for name in ('käse', 'cat', 'dog')])
    path = save(tmp_path / 'a.npz', image=IMAGES, label=LABELS, class_names=encoded)
    assert load_dataset(path).class_names == ('käse', 'cat', 'dog')
    path = save(tmp_path / 'b.npz', image=IMAGES, label=LABELS, class_names=np.array([b'\xff', b'cat', b'dog']))
    with pytest.raises(InputFileError, match=r"b\.npz: the class name b'\\xff' is not UTF-8: expected text"):
        load_dataset(path)


def test_a_name_takes_no_arrays():
    with pytest.raises(ConfigError, match="belong to arrays, and 'digits' is a name"):
        load_dataset('digits', LABELS)


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'image': IMAGES}, "'label' is missing: expected image, label"),
        ({'image': IMAGES, 'label': LABELS, 'lable': LABELS}, "'lable' is unknown: expected image, label"),
        ({'image': IMAGES, 'label': LABELS - 1}, 'labels are from -1'),
        ({'image': np.array([{}]), 'label': LABELS}, 'expected an .npz file with image and label'),
    ],
)
def test_files_that_are_no_data_set(tmp_path, arrays, message):
    with pytest.raises(InputFileError, match=re.escape(message)) as raised:
        load_dataset(save(tmp_path / 'a.npz', **arrays))
    assert 'a.npz' in str(raised.value) and '\n' not in str(raised.value)


def test_no_file_and_no_npz_file(tmp_path):
    with pytest.raises(InputFileError, match=r'cannot read .*b\.npz: No such file'):
        load_dataset(f'arrays:{tmp_path}/b.npz')
    (tmp_path / 'b.npz').write_bytes(b'?')
    with pytest.raises(InputFileError, match=r'cannot read .*b\.npz: it is no sound \.npz file'):
        load_dataset(f'arrays:{tmp_path}/b.npz')


def test_the_statistics_of_many_images_take_little_memory():
    images = np.random.default_rng(0).integers(0, 256, (2048, 32, 32, 3), np.uint8)
    tracemalloc.start()
    histogram = ChannelHistogram()
    histogram.add(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 4  # bincount makes int64 of what it counts
    np.testing.assert_allclose(histogram.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(histogram.std, (images / 255).std((0, 1, 2)), rtol=1e-12)
