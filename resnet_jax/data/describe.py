"""Describes a data set: counts, sizes, statistics, and images that are in both the training and the test split."""

import hashlib
from collections.abc import Iterator

import numpy as np

from resnet_jax.data.split import Dataset, ImagesOnDemand, Split
from resnet_jax.typing import JsonDict

_BLOCK = 256  # number of images in memory at once
_ROWS, _COLUMNS = 16, 8  # in the sheet of samples: classes, and images of each class


def splits(dataset: Dataset) -> Iterator[tuple[str, Split]]:
    """Yields the name and the arrays of each split."""
    yield 'train', dataset.train
    if dataset.validation is not None:
        yield 'validation', dataset.validation
    yield 'test', dataset.test


def describe_dataset(dataset: Dataset) -> JsonDict:
    """Returns the description of a data set in reports, as JSON.

    Returns:
      The facts of `Dataset.describe`; 'counts', the number of images of each class in each split; 'notes'; and 'duplicates',
      with 'test_in_train', the number of test images with the pixels of a training image, and 'with_another_label', the number
      of these that have another label there. 'duplicates' is None for images on demand, because all would be decoded.
    """
    num_classes = dataset.num_classes
    counts = {name: np.bincount(split.label, minlength=num_classes).tolist() for name, split in splits(dataset)}
    return {**dataset.describe(), 'counts': counts, 'notes': list(dataset.notes), 'duplicates': _duplicates(dataset)}


def sample_images(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns the first training images of each class.

    Returns:
        uint8 `[16, 8, height, width, channels]`, with one row for each of the first classes, and the names of these classes. If
        a class has fewer images, its row repeats the last one.
    """
    names = list(dataset.class_names[:_ROWS])
    chosen = []
    for number in range(len(names)):
        of_class = np.flatnonzero(dataset.train.label == number)[:_COLUMNS]
        chosen.append(np.pad(of_class, (0, _COLUMNS - len(of_class)), mode='edge'))
    return dataset.train.image[np.stack(chosen)], names


def _duplicates(dataset: Dataset) -> JsonDict | None:
    if isinstance(dataset.train.image, ImagesOnDemand):
        return None
    labels: dict[bytes, set[int]] = {}
    for image, label in zip(_images(dataset.train), dataset.train.label.tolist(), strict=True):
        labels.setdefault(_digest(image), set()).add(label)
    tests = zip(_images(dataset.test), dataset.test.label, strict=True)
    twins = [(labels.get(_digest(image)), label) for image, label in tests]
    both = [(others, int(label)) for others, label in twins if others]
    return {'test_in_train': len(both), 'with_another_label': sum(label not in others for others, label in both)}


def _images(split: Split) -> Iterator[np.ndarray]:
    for start in range(0, len(split.label), _BLOCK):
        yield from split.image[start : start + _BLOCK]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()
