"""Images that stay encoded and are decoded at each access, for data sets whose arrays do not fit on the disk."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from resnet_jax.data.encoded import EncodedDataset, EncodedSplit, Subset
from resnet_jax.data.images import read_crop, read_image
from resnet_jax.data.normalization import find_normalization
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.resized_crop import resized_crop_box
from resnet_jax.data.split import Dataset, Split
from resnet_jax.errors import ConfigError, InputFileError


@dataclasses.dataclass(frozen=True, repr=False)
class EncodedImages:
    """The images of an encoded split, RGB: see `ImagesOnDemand`.

    Attributes:
      size: height and width in pixels.
      resize, crop, interpolation: see `read_image`.
      threads: number of threads that decode; 0 for one per core.
    """

    split: EncodedSplit
    size: int
    resize: str
    crop: float
    interpolation: str
    threads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.split.label), self.size, self.size, 3

    @property
    def nbytes(self) -> int:
        return len(self) * self.size**2 * 3

    def __len__(self) -> int:
        return len(self.split.label)

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        chosen = np.arange(len(self))[index]

        def read(example: int) -> np.ndarray:
            data, name = self.split.read(example), self.split.describe(example)
            return read_image(data, self.shape[1:], self.resize, self.crop, self.interpolation, name)

        return self._read(read, chosen.ravel().tolist()).reshape(*chosen.shape, *self.shape[1:])

    def crops(self, index: np.ndarray, seed: int, step: int, positions: np.ndarray, area: float) -> np.ndarray:
        def read(request: tuple[int, int]) -> np.ndarray:
            example, position = request
            box = functools.partial(resized_crop_box, seed, step, position, smallest=area)
            return read_crop(self.split.read(example), self.shape[1:], box, self.split.describe(example))

        return self._read(read, zip(index.tolist(), positions.tolist(), strict=True))

    def select(self, index: np.ndarray) -> Self:
        return dataclasses.replace(self, split=Subset(self.split, index))

    def in_one_thread(self) -> Self:
        return dataclasses.replace(self, threads=1)

    def _read(self, read: Callable[..., np.ndarray], requests: Iterable[object]) -> np.ndarray:
        wanted = list(requests)
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)

        def write(place: int) -> None:
            images[place] = read(wanted[place])

        try:
            for _ in (map if self.threads == 1 else _pool(self.threads).map)(write, range(len(wanted))):
                pass
        except InputFileError as error:
            raise InputFileError(str(error), topic='broken_images') from None
        return images


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads or cores(), thread_name_prefix='decode')  # Pillow decodes without Python's lock


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def on_demand(encoded: EncodedDataset, options: LoadOptions) -> Dataset:
    """Returns the data set with images that are decoded at each access, always to three channels.

    The fingerprint is computed from the source's version and the options, because the pixels have not been read.

    Raises:
      ConfigError: the source has no random access.
    """
    if not encoded.random_access:
        raise ConfigError(
            f"{encoded.name} is read in groups of rows, and decode='always' needs images one by one, in random order; expected "
            "folder:PATH or tfds:NAME, or decode='once'"
        )
    key = json.dumps([encoded.version, options.image_size, options.resize, options.test_crop])
    mean, std = find_normalization(options.normalization)

    def split(part: EncodedSplit) -> Split:
        how = options.resize, options.test_crop, options.interpolation
        return Split(EncodedImages(part, options.image_size, *how), part.label)

    return Dataset(
        name=encoded.name,
        train=split(encoded.train),
        test=split(encoded.test),
        class_names=encoded.class_names,
        mean=mean,
        std=std,
        fingerprint=hashlib.sha256(key.encode()).hexdigest(),
        validation=None if encoded.validation is None else split(encoded.validation),
        notes=(*encoded.notes, 'images are decoded at each use; the fingerprint is that of the files, not of pixels'),
    )
