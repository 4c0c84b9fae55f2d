"""Encoded images with labels, from a folder, a table or a tfds data set; `decode` makes arrays of them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from resnet_jax.errors import InputFileError


class EncodedSplit(Protocol):
    """Encoded images in a fixed order, read one at a time and from several threads."""

    @property
    def label(self) -> np.ndarray:
        """int32 [n], each in [0, num_classes)."""
        ...

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image file: PNG, JPEG, ...

        Raises:
          InputFileError: the image cannot be read, or it has changed since the data set was opened.
        """
        ...

    def describe(self, index: int) -> str:
        """Returns the location of an image, for messages: a path, or a file and a row."""
        ...


@dataclasses.dataclass(frozen=True)
class EncodedDataset:
    """A data set whose images are not decoded yet.

    Attributes:
      name: its name in a config, such as 'folder:pictures'.
      validation: the split that selects the best epoch; None if the source has no such split.
      class_names: one for each label.
      version: a text that changes if an image, a label or the order changes; found without reading the images. A copy has the
        same version.
      place: a text that also differs between copies, because other files may have the same sizes and times.
      random_access: whether images in random order are read as fast as in sequence.
      notes: lines about what was left out.
    """

    name: str
    train: EncodedSplit
    test: EncodedSplit
    class_names: tuple[str, ...]
    version: str
    validation: EncodedSplit | None = None
    random_access: bool = True
    place: str = ''
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some of the images of a split, in the split's order."""

    split: EncodedSplit
    indices: np.ndarray

    @property
    def label(self) -> np.ndarray:
        label: np.ndarray = self.split.label[self.indices]
        return label

    def read(self, index: int) -> bytes:
        return self.split.read(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.split.describe(int(self.indices[index]))


def place_of(root: Path, files: Iterable[tuple[str, int]]) -> str:
    """Returns `EncodedDataset.place` of files, given as (path, time of the last change in nanoseconds)."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    for path, changed in files:
        digest.update(os.fsencode(f'{path}\0{changed}\n'))
    return digest.hexdigest()


def split_by_class(label: np.ndarray, test_fraction: float, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples into a training part and a test part with `test_fraction` of each class, at least one example.

    The selection depends only on the labels and the fraction.

    Returns:
      The indices of the training examples and of the test examples, both in ascending order.

    Raises:
      InputFileError: a class has fewer than two examples.
    """
    count = np.bincount(label, minlength=len(class_names))
    if count.min() < 2:
        name, number = class_names[int(count.argmin())], count.min()
        raise InputFileError(
            f'class {name[:80]!r} has {number} image{"" if number == 1 else "s"}: expected two or more, one to train and '
            'one to test with; add some, or remove the class'
        )
    shuffled = np.argsort(np.random.Philox(key=np.array([0, 2**64 - 2], np.uint64)).random_raw(len(label)), kind='stable')
    by_class = shuffled[np.argsort(label[shuffled], kind='stable')]
    rank = np.arange(len(label)) - (np.cumsum(count) - count)[label[by_class]]
    tests = np.clip(np.round(test_fraction * count), 1, count - 1)
    test = np.zeros(len(label), bool)
    test[by_class] = rank < tests[label[by_class]]
    return np.flatnonzero(~test), np.flatnonzero(test)


def require_every_class(dataset: EncodedDataset, where: str) -> None:
    """Checks that each split has images of each class.

    Raises:
      InputFileError: a class is missing in a split; `where` is the source, for the message.
    """
    splits = {'training': dataset.train, 'test': dataset.test, 'validation': dataset.validation}
    for part, split in splits.items():
        if split is not None:
            counts = np.bincount(split.label, minlength=len(dataset.class_names))
            if not counts.all():
                name = dataset.class_names[int(counts.argmin())]
                raise InputFileError(
                    f'{where}: class {name[:80]!r} has no {part} images: expected some of each class in each split'
                )
