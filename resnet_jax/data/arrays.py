"""Data sets from arrays: `arrays:FILE.npz`, and NumPy arrays from Python."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnet_jax.data.encoded import split_by_class
from resnet_jax.data.images import resize_array
from resnet_jax.data.options import DEFAULTS, LoadOptions
from resnet_jax.data.split import ARRAYS, Dataset, Fingerprint, Split
from resnet_jax.data.statistics import ChannelHistogram
from resnet_jax.errors import ConfigError, InputFileError, shortened
from resnet_jax.runtime.npz import read_npz

_KEYS = {'image', 'label', 'test_image', 'test_label', 'class_names'}


def load_arrays_file(name: str, path: str, options: LoadOptions) -> Dataset:
    """Loads an .npz file with 'image' and 'label', and optionally 'test_image', 'test_label' and 'class_names'.

    Raises:
      InputFileError: the file is missing, damaged or too large, or its arrays do not make a data set.
    """
    file = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises where there is no home)
    try:
        arrays = read_npz(file)
    except OSError as error:
        raise InputFileError(f'cannot read {file}: {error.strerror}; expected an .npz file') from None
    except ValueError as error:
        raise InputFileError(f'cannot read {file}: {error}; expected an .npz file with image and label') from None
    if unknown := sorted(arrays.keys() - _KEYS) or sorted({'image', 'label'} - arrays.keys()):
        kind = 'unknown' if unknown[0] in arrays else 'missing'
        raise InputFileError(
            f'{file}: {unknown[0][:80]!r} is {kind}: expected image, label and, at will, test_image, test_label, class_names'
        )
    class_names = arrays.pop('class_names', None)
    try:
        return dataset_from_arrays(
            arrays['image'],
            arrays['label'],
            test_images=arrays.get('test_image'),
            test_labels=arrays.get('test_label'),
            class_names=None if class_names is None else class_names.ravel(),
            name=name,
            options=options,
        )
    except (ConfigError, InputFileError) as error:
        raise InputFileError(f'{file}: {error}') from None


def dataset_from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    test_images: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    class_names: Iterable[str | bytes | int] | None = None,
    name: str = ARRAYS,
    options: LoadOptions = DEFAULTS,
) -> Dataset:
    """Returns a data set made of arrays.

    Args:
      images: uint8 `[n, height, width]` or `[n, height, width, channels]` with 1 channel (grey) or 3 (RGB).
      labels: integers `[n]` from 0 to one below the number of classes.
      test_images, test_labels: the test split; by default `options.test_fraction` of each class.
      class_names: one for each class, of which text is made (of bytes, by UTF-8); by default '0', '1', ...

    Raises:
      ConfigError: the arrays do not make a data set; or a class has no training or no test images.
    """
    if (test_images is None) != (test_labels is None):
        raise ConfigError('test images or test labels are missing: expected both or neither')
    train = _split(images, labels, 'images', 'labels')
    test = (
        None if test_images is None or test_labels is None else _split(test_images, test_labels, 'test images', 'test labels')
    )
    every = [train] if test is None else [train, test]
    largest = max(int(split.label.max()) for split in every)
    if largest >= sum(len(split.label) for split in every):
        raise ConfigError(f'a label is {largest}, more than there are images: expected 0 to the number of classes - 1')
    names = _names(range(largest + 1) if class_names is None else class_names)
    if not largest and len(names) < 2:
        raise ConfigError('all labels are 0, which makes one class: expected two classes or more')
    if len(names) < 2 or largest >= len(names) or len(set(names)) < len(names):
        raise ConfigError(
            f'{len(names)} class name{"s" * (len(names) != 1)}, {len(set(names))} of them different, '
            f'for labels up to {largest}: expected two classes or more, and a name of its own for each'
        )
    if test is None:
        try:
            first, second = split_by_class(train.label, options.test_fraction, names)
        except InputFileError as error:
            raise ConfigError(str(error)) from None
        train, test = (Split(train.image[part], train.label[part]) for part in (first, second))
    if train.image.shape[1:] != test.image.shape[1:]:
        raise ConfigError(
            f'training images are {train.image.shape[1:]} and test images {test.image.shape[1:]}: expected one shape'
        )
    for part, split in (('training', train), ('test', test)):
        counts = np.bincount(split.label, minlength=len(names))
        if not counts.all():
            raise ConfigError(f'class {names[int(counts.argmin())][:80]!r} has no {part} images: expected some of each class')
    if options.image_size:
        train, test = (resize_split(split, options) for split in (train, test))
    histogram = ChannelHistogram()
    histogram.add(train.image[:])
    return Dataset(name, train, test, names, histogram.mean, histogram.std, Fingerprint.of(train, test))


def resize_split(split: Split, options: LoadOptions) -> Split:
    """Returns the split with its images resized to the size in the options."""
    size = (options.image_size, options.image_size)
    if split.image.shape[1:3] == size:
        return split
    images = [resize_array(image, size, options.resize) for image in split.image[:]]
    return Split(np.stack(images), split.label)


def _names(class_names: Iterable[str | bytes | int]) -> tuple[str, ...]:
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in class_names)
    except UnicodeDecodeError as error:
        raise ConfigError(f'the class name {error.object[:80]!r} is not UTF-8: expected text') from None
    except TypeError:
        raise ConfigError(f'class_names is {shortened(class_names)}: expected a name for each class') from None


def _array(values: np.ndarray, name: str, expected: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:  # a list of arrays or lists of several lengths
        raise ConfigError(f'{name} are of several shapes and make no array: expected {expected}') from None


def _split(images: np.ndarray, labels: np.ndarray, images_name: str, labels_name: str) -> Split:
    image = _array(images, images_name, 'images of one size; resize them, or keep them as files and load folder:PATH')
    label = _array(labels, labels_name, 'an integer for each image')
    if image.ndim == 3:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        advice = '; values from 0 to 1 become uint8 by (255 * images).round()' if image.dtype.kind == 'f' else ''
        raise ConfigError(
            f'{images_name} are {image.dtype}{list(image.shape)}: expected uint8 [n, height, width] or '
            f'[n, height, width, channels] with 1 or 3 channels{advice}'
        )
    if label.dtype.kind not in 'iu' or label.shape != (len(image),):
        raise ConfigError(f'{labels_name} are {label.dtype}{list(label.shape)}: expected integers [{len(image)}]')
    if label.min() < 0 or label.max() > np.iinfo(np.int32).max:
        raise ConfigError(f'{labels_name} are from {label.min()} to {label.max()}: expected 0 to the number of classes - 1')
    return Split(np.ascontiguousarray(image), label.astype(np.int32))
