"""Compares CIFAR in any format with the official images and labels, by the hashes of the .bin files."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.data.sources import Source
from resnet_jax.errors import InputFileError


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a copy, in the order of the .bin files.

    Attributes:
      image: {'train' | 'test': uint8 [n, 32, 32, 3]}.
      label: {'train' | 'test': {label's key: uint8 [n]}}.
      names: {label's key: class names}.
    """

    image: dict[str, np.ndarray]
    label: dict[str, dict[str, np.ndarray]]
    names: dict[str, list[str]]


def to_records(image: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the records of .bin files, uint8 [n, labels + 3072].

    Args:
      image: uint8 [n, 32, 32, 3].
      labels: uint8 [n] for each label of the source, in order.
    """
    planes = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
    return np.concatenate([*(label[:, None] for label in labels), planes], axis=1)


def parts_by_hash(source: Source, split: str, records: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {.bin file: indices of its records} for the .bin files that are found complete, at any place."""
    files = {source.md5[name]: name for name in (source.train_files if split == 'train' else source.test_files)}
    parts = {}
    for indices in np.split(np.arange(len(records)), len(files)):
        digest = hashlib.md5(records[indices].data, usedforsecurity=False).hexdigest()
        if digest in files:
            parts[files[digest]] = indices
    return parts


def is_official(source: Source, split: str, records: np.ndarray) -> bool:
    """Returns whether all records of a split are the official ones, in the official order."""
    parts = parts_by_hash(source, split, records)
    files = source.train_files if split == 'train' else source.test_files
    return list(parts) == list(files)


def in_official_order(path: Path, contents: Contents, source: Source) -> Contents:
    """Returns the contents in the order of the .bin files, found by hashes: tables may have another order.

    Raises:
      InputFileError: an image or a label differs from the official ones, or the order differs within a file.
    """
    image: dict[str, np.ndarray] = {}
    labels: dict[str, dict[str, np.ndarray]] = {}
    for split, files in (('train', source.train_files), ('test', source.test_files)):
        records = to_records(contents.image[split], [contents.label[split][label.key] for label in source.labels])
        parts = parts_by_hash(source, split, records)
        if len(parts) < len(files):
            raise InputFileError(
                f'{path}: the {split} images and labels are not those of {source.name} ({len(files) - len(parts)} of '
                f'{len(files)} parts have another hash than the official ones): expected an exact copy; get it from '
                f'{source.homepage}'
            )
        order = np.concatenate([parts[name] for name in files])
        image[split] = contents.image[split][order]
        labels[split] = {key: values[order] for key, values in contents.label[split].items()}
    return Contents(image, labels, contents.names)
