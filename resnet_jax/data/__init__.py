"""Data sets by name, as NumPy arrays: CIFAR-10, CIFAR-100, scikit-learn's digits, random data, and registered ones.

Only this package uses tfds, and imports it only to prepare or decode a data set; decoded arrays are cached, so that later
starts take less than a second. Only `augment` uses JAX.
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


_DATASETS: dict[str, _Entry] = {  # in addition to SOURCES
    'digits': _Entry(lambda data_dir, archive: load_digits(), DIGITS),
    **{info.name: _Entry(functools.partial(_load_synthetic, info.name), info) for info in SYNTHETIC.values()},
}


def available_datasets() -> tuple[str, ...]:
    """Returns the names that `load_dataset` takes."""
    return (*SOURCES, *_DATASETS)


def register_dataset(name: str, load: Load, info: DatasetInfo | None = None) -> None:
    """Registers a data set under a name, for every function and command that takes a data set's name.

    Args:
        name: its name in configs; must be new.
        load: called as `load(data_dir, archive)`, both from the config and None if empty; returns a `Dataset`.
        info: the info of the data set, if it is known without loading it.

    Raises:
        ConfigError: the name is taken.
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
    """Returns the info of a data set; loads its arrays only if it was registered without info.

    Raises:
        ConfigError: the name is unknown; other errors are those of `load_dataset`.
    """
    return find_dataset(name, data_dir, archive).info


def load_dataset(name: str, data_dir: OptionalPath = None, archive: OptionalPath = None) -> Dataset:
    """Loads a data set by name.

    Uses a folder prepared by tfds, `<root>/<name>/3.x.y` in array_record or tfrecord, as it is. If there is none, prepares it
    from the official archive: `archive`, or a download. digits and synthetic_... need no files.

    Args:
        name: one of `available_datasets()`.
        data_dir: the tfds root; if empty, TFDS_DATA_DIR, and if that is empty, ~/tensorflow_datasets.
        archive: path of the official archive, for machines without a network; may be empty.

    Raises:
        ConfigError: the name is unknown, or `data_dir` is not a root.
        InputFileError: a file is missing, damaged or of another data set; or there is no data and no internet.
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
