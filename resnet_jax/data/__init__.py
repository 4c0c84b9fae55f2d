"""Data sets by name, as NumPy arrays: CIFAR-10, CIFAR-100, scikit-learn's digits, random ones, and a user's own.

The only part that knows tfds, which it imports only to prepare or decode a data set; decoded arrays are kept, so that later
starts take less than a second. Arrays in, arrays out: nothing but `augment` knows JAX.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

from resnet_jax.data.cifar import load_cifar
from resnet_jax.data.digits import DIGITS, load_digits
from resnet_jax.data.sources import SOURCES
from resnet_jax.data.split import Dataset, DatasetInfo, Split, check_hold_out, hold_out, training_splits
from resnet_jax.data.synthetic import SYNTHETIC, load_synthetic
from resnet_jax.errors import ConfigError, did_you_mean

__all__ = [
    'Dataset',
    'DatasetInfo',
    'LazyDataset',
    'Split',
    'available_datasets',
    'check_hold_out',
    'dataset_info',
    'find_dataset',
    'hold_out',
    'load_dataset',
    'register_dataset',
    'training_splits',
]

OptionalPath = str | os.PathLike[str] | None
Load = Callable[[OptionalPath, OptionalPath], Dataset]


@dataclasses.dataclass(frozen=True)
class _Entry:
    load: Load
    info: DatasetInfo | None


class LazyDataset:
    """A data set whose arrays are loaded when they are first asked for, and only once."""

    def __init__(self, entry: _Entry, data_dir: OptionalPath, archive: OptionalPath):
        self._entry, self._paths = entry, (data_dir or None, archive or None)

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """The facts about it. Loads the arrays only if it was registered without them."""
        return self._entry.info or self.dataset.info

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The arrays."""
        return self._entry.load(*self._paths)


def _load_synthetic(name: str, data_dir: OptionalPath, archive: OptionalPath) -> Dataset:
    return load_synthetic(name)


_DATASETS: dict[str, _Entry] = {  # besides those of SOURCES
    'digits': _Entry(lambda data_dir, archive: load_digits(), DIGITS),
    **{info.name: _Entry(functools.partial(_load_synthetic, info.name), info) for info in SYNTHETIC.values()},
}


def available_datasets() -> tuple[str, ...]:
    """Returns the names that `load_dataset` takes."""
    return (*SOURCES, *_DATASETS)


def register_dataset(name: str, load: Load, info: DatasetInfo | None = None) -> None:
    """Adds a data set of your own, for every function and command that takes a data set's name.

    Args:
        name: how configs call it; must be new.
        load: is called as `load(data_dir, archive)`, both from the config and None if empty, and returns a `Dataset`.
        info: the facts about it, if they are known without loading it.

    Raises:
        ConfigError: there is a data set of this name.
    """
    if name in available_datasets():
        raise ConfigError(f"data set '{name}' exists already: expected a new name")
    _DATASETS[name] = _Entry(load, info)


def find_dataset(name: str, data_dir: OptionalPath = None, archive: OptionalPath = None) -> LazyDataset:
    """Returns a data set whose `info` is known at once and whose arrays are loaded on demand. Arguments as `load_dataset`.

    Raises:
        ConfigError: the name is unknown. The properties raise what `load_dataset` does.
    """
    return LazyDataset(_find(name), data_dir, archive)


def dataset_info(name: str, data_dir: OptionalPath = None, archive: OptionalPath = None) -> DatasetInfo:
    """Returns the facts about a data set; its arrays are loaded only if it was registered without them.

    Raises:
        ConfigError: the name is unknown; or as `load_dataset`.
    """
    return find_dataset(name, data_dir, archive).info


def load_dataset(name: str, data_dir: OptionalPath = None, archive: OptionalPath = None) -> Dataset:
    """Loads a data set by name.

    A folder that tfds prepared, `<root>/<name>/3.x.y` in array_record or tfrecord, is used as it is. Where there is none,
    it is prepared from the official archive: `archive`, or a download. Digits and synthetic_... need no files.

    Args:
        name: one of `available_datasets()`.
        data_dir: the tfds root; if empty, TFDS_DATA_DIR, and if that is empty, ~/tensorflow_datasets.
        archive: path of the official archive, for machines without a network; may be empty.

    Raises:
        ConfigError: the name is unknown, or `data_dir` is not a root.
        InputFileError: a file is missing, damaged or another data set's; or there is no data and no network.
        ResourceError: the root cannot be written.
    """
    return find_dataset(name, data_dir, archive).dataset


def _find(name: str) -> _Entry:
    if name in SOURCES:
        return _Entry(functools.partial(load_cifar, SOURCES[name]), SOURCES[name].info)
    if name not in _DATASETS:
        names = available_datasets()
        hint = did_you_mean(name, names) or '; change the name'
        raise ConfigError(f"data set '{name}' is unknown: expected one of {', '.join(names)}{hint}")
    return _DATASETS[name]
