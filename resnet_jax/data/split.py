"""The data sets that the data package returns, and a deterministic division into training and held-out examples."""

import dataclasses
import hashlib
from typing import Protocol, Self, runtime_checkable

import numpy as np

from resnet_jax.errors import ConfigError

ARRAYS = 'arrays'  # the name of a data set made of arrays in Python


@runtime_checkable
class ImagesOnDemand(Protocol):
    """Images that are decoded at each access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width, channels)."""
        ...

    @property
    def nbytes(self) -> int:
        """Size in bytes of all images when they are decoded."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray:
        """Returns images as in an evaluation, uint8 `[k, height, width, channels]`.

        Raises:
          InputFileError: an image cannot be read.
        """
        ...

    def crops(self, index: np.ndarray, seed: int, step: int, positions: np.ndarray, area: float) -> np.ndarray:
        """Returns random resized crops of images, uint8 `[k, height, width, channels]`.

        Args:
          index: int32 `[k]`: the indices of the images.
          seed, step, positions: determine the crops; positions in the batch are int32 `[k]`.
          area: smallest share of an image that a crop shows.

        Raises:
          InputFileError: an image cannot be read.
        """
        ...

    def select(self, index: np.ndarray) -> Self:
        """Returns some of the images, still encoded."""
        ...

    def in_one_thread(self) -> Self:
        """Returns the same images, decoded in the calling thread."""
        ...


Images = np.ndarray | ImagesOnDemand


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels in a fixed order; they may be memory-mapped, so treat them as read-only.

    Attributes:
      image: uint8 [n, height, width, channels].
      label: int32 [n], each in [0, num_classes).
    """

    image: Images
    label: np.ndarray

    def select(self, index: np.ndarray) -> 'Split':
        """Returns some of the examples."""
        image = self.image[index] if isinstance(self.image, np.ndarray) else self.image.select(index)
        return Split(image, self.label[index])


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that are known before its arrays are loaded.

    Attributes:
      image_shape: (height, width, channels).
      num_train, num_test: number of examples in each split.
      mean, std: per channel, of the training images scaled to [0, 1].
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named data set.

    Attributes:
      mean, std: per channel, of the training images scaled to [0, 1].
      fingerprint: SHA-256 hex digest of the pixels and labels, equal on every machine and for every source of the data.
      validation: the split that selects the best epoch if a config holds out none; None if the data set has none.
      notes: facts for readers of a report, such as images that were left out.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def info(self) -> DatasetInfo:
        """The info of this data set."""
        sizes = len(self.train.label), len(self.test.label)
        return DatasetInfo(self.name, self.image_shape, self.num_classes, *sizes, self.mean, self.std)

    def describe(self) -> dict[str, object]:
        """Returns, as JSON, the facts that a checkpoint needs to be usable without the data set."""
        return {
            'name': self.name,
            'fingerprint': self.fingerprint,
            'image_shape': list(self.image_shape),
            'class_names': list(self.class_names),
            'mean': list(self.mean),
            'std': list(self.std),
        }

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.image.shape[1:]
        return height, width, channels


class Fingerprint:
    """The SHA-256 hex digest of the pixels and labels of splits, in order."""

    def __init__(self) -> None:
        self._all, self._pixels = hashlib.sha256(), hashlib.sha256()

    def add_images(self, image: np.ndarray) -> None:
        """Adds the next images of a split, uint8 `[n, height, width, channels]`."""
        self._pixels.update(np.ascontiguousarray(image).data)

    def end_split(self, label: np.ndarray, image_shape: tuple[int, ...]) -> None:
        """Adds the labels of all images of a split, int32 `[n]`."""
        self._all.update(f'{self._pixels.hexdigest()} {len(label)} {image_shape}'.encode())
        self._all.update(np.ascontiguousarray(label, np.int32).data)
        self._pixels = hashlib.sha256()

    def hexdigest(self) -> str:
        """Returns the digest of all that was added."""
        return self._all.hexdigest()

    @classmethod
    def of(cls, *splits: Split | None) -> str:
        """Returns the digest of splits that are in memory."""
        self = cls()
        for split in splits:
            if split is not None:
                self.add_images(split.image[:])
                self.end_split(split.label, split.image.shape[1:])
        return self.hexdigest()


def training_splits(dataset: Dataset, validation_size: int, train_size: int, seed: int) -> tuple[Split, Split | None]:
    """Returns a run's training split and its validation split, which may be None.

    Args:
      validation_size: number of examples held out, selected by `seed`; 0 for the data set's own validation split, if any.
      train_size: number of the remaining examples to train on, equal for every seed; 0 for all.

    Raises:
      ConfigError: there are not enough examples.
    """
    train, validation = dataset.train, dataset.validation
    if validation_size:
        train, validation = hold_out(train, validation_size, seed)
    if 0 < train_size < len(train.label):
        # A fixed seed, not the run's seed: runs with different seeds must have the same data.
        train = hold_out(train, train_size, seed=0)[1]
    return train, validation


def check_hold_out(size: int, examples: int) -> None:
    """Raises ConfigError unless `size` of `examples` examples can be held out."""
    if not 1 <= size <= examples - 1:
        raise ConfigError(f'cannot hold out {size} of {examples} examples: expected 1 to {examples - 1}; change the size')


def hold_out(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Holds out `size` examples of a split, an equal share of every class (to within one example).

    The selection depends only on the labels, `size` and `seed`; both parts keep the original order.

    Returns:
      (rest, held out), with n - size and size examples.

    Raises:
      ConfigError: `size` is not in [1, n - 1], or `seed` is not in [0, 2**64).
    """
    n = len(split.label)
    check_hold_out(size, n)
    if not 0 <= seed < 2**64:
        raise ConfigError(f'seed {seed} is out of range: expected 0 to 2**64 - 1; change the seed')
    # The second half of the key differs from those of the epochs' streams, where it is the epoch.
    # Uses raw Philox integers and a stable sort: the streams of np.random.Generator may change between NumPy versions.
    shuffled = np.argsort(np.random.Philox(key=np.array([seed, 2**64 - 1], np.uint64)).random_raw(n), kind='stable')
    label = split.label[shuffled]
    # Computes each example's rank within its class, as a fraction of the class; the `size` smallest are a stratified sample.
    by_class = np.argsort(label, kind='stable')
    count = np.bincount(label)
    start = np.cumsum(count) - count
    rank = np.empty(n, np.int64)
    rank[by_class] = np.arange(n) - start[label[by_class]]
    chosen = shuffled[np.argsort((rank + 0.5) / count[label], kind='stable')[:size]]
    held = np.zeros(n, bool)
    held[chosen] = True
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))
