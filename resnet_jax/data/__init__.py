"""Data sets as NumPy arrays: CIFAR-10, CIFAR-100, scikit-learn's digits, random data, your own images, and registered ones.

Only this package uses tfds, and imports it only to prepare or decode a data set. Decoded arrays are cached, so later starts
take less than a second. Only `augment` uses JAX.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from resnet_jax.data.cifar import load_cifar
from resnet_jax.data.digits import DIGITS, load_digits
from resnet_jax.data.normalization import find_normalization
from resnet_jax.data.options import DEFAULTS, LoadOptions
from resnet_jax.data.sources import SOURCES
from resnet_jax.data.split import ARRAYS, Dataset, DatasetInfo, Split, check_hold_out, hold_out, training_splits
from resnet_jax.data.synthetic import SYNTHETIC, load_synthetic
from resnet_jax.errors import ConfigError, did_you_mean

__all__ = [
    'Dataset',
    'DatasetInfo',
    'LazyDataset',
    'LoadOptions',
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
    load: Callable[[LoadOptions], Dataset]
    info: DatasetInfo | None


class LazyDataset:
    """A data set whose arrays are loaded once, on first use.

    Attributes:
      known_info: the info, if it is known without loading the arrays, or None.
    """

    def __init__(self, load: Callable[[], Dataset], info: DatasetInfo | None = None):
        self._load, self.known_info = load, info

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Returns a data set that is already loaded."""
        return cls(lambda: dataset, dataset.info)

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """The info. Loads the arrays only if the info is not known without them."""
        return self.known_info or self.dataset.info

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The arrays."""
        return self._load()


# Pillow takes a while to import, and named data sets that are cached do not need it.
def _load_folder(name: str, path: str, options: LoadOptions) -> Dataset:
    from resnet_jax.data.decode import decode
    from resnet_jax.data.folder import open_folder

    return decode(open_folder(name, path, options), options)


def _load_arrays(name: str, path: str, options: LoadOptions) -> Dataset:
    from resnet_jax.data.arrays import load_arrays_file

    return load_arrays_file(name, path, options)


def _load_tfds(name: str, path: str, options: LoadOptions) -> Dataset:
    from resnet_jax.data.decode import decode
    from resnet_jax.data.tfds_sets import open_tfds

    return decode(open_tfds(name, path, options), options)


def _load_parquet(name: str, path: str, options: LoadOptions) -> Dataset:
    from resnet_jax.data.decode import decode
    from resnet_jax.data.parquet import open_parquet

    return decode(open_parquet(name, path, options), options)


# Loaders by the prefix of names such as 'folder:PATH'; called with the name, the part after the colon, and the options.
_SCHEMES: dict[str, Callable[[str, str, LoadOptions], Dataset]] = {
    'folder': _load_folder,
    'arrays': _load_arrays,
    'tfds': _load_tfds,
    'parquet': _load_parquet,
}

_DATASETS: dict[str, _Entry] = {  # in addition to SOURCES
    'digits': _Entry(lambda options: load_digits(), DIGITS),
    **{
        info.name: _Entry(lambda options, name=info.name: load_synthetic(name), info)  # type: ignore[misc]
        for info in SYNTHETIC.values()
    },
}


def available_datasets() -> tuple[str, ...]:
    """Returns the names that `load_dataset` takes."""
    return (*SOURCES, *_DATASETS)


def register_dataset(name: str, load: Load, info: DatasetInfo | None = None) -> None:
    """Registers a data set under a name that every function and command then takes.

    Args:
      name: its name in configs; must be new and contain no colon.
      load: called as `load(data_dir, archive)` with `data_dir` and `data_archive` of the config, None if empty; returns a
        `Dataset`.
      info: the info of the data set, if it is known without loading the data.

    Raises:
      ConfigError: the name is taken, or has a colon.
    """
    if name in available_datasets():
        raise ConfigError(f"data set '{name}' exists already: expected a new name")
    if ':' in name:
        raise ConfigError(f"data set '{name}' has a colon: expected a name without, for a colon stands for a kind of source")
    _DATASETS[name] = _Entry(lambda options: load(options.data_dir or None, options.data_archive or None), info)


def find_dataset(name: str, options: LoadOptions = DEFAULTS) -> LazyDataset:
    """Returns a data set whose arrays are loaded on demand. For the arguments see `load_dataset`.

    Raises:
      ConfigError: the name is unknown. The properties of the result raise the other errors of `load_dataset`.
    """
    scheme, colon, path = name.partition(':')
    if not colon or scheme not in _SCHEMES:
        entry = _find(name)
        source = _resized(LazyDataset(functools.partial(entry.load, options), entry.info), options)
    elif path:
        source = LazyDataset(functools.partial(_SCHEMES[scheme], name, path, options))
    else:
        raise ConfigError(f"data set '{name}' has no path: expected one behind the colon, as {scheme}:PATH")
    return _normalized(source, options)


def _normalized(source: LazyDataset, options: LoadOptions) -> LazyDataset:
    if not options.normalization:
        return source
    mean, std = find_normalization(options.normalization)
    info = source.known_info and dataclasses.replace(source.known_info, mean=mean, std=std)
    return LazyDataset(lambda: dataclasses.replace(source.dataset, mean=mean, std=std), info)


def dataset_info(name: str, options: LoadOptions = DEFAULTS) -> DatasetInfo:
    """Returns the info of a data set; loads its arrays only if the info is not known without them.

    Raises:
      ConfigError: the name is unknown. For other errors see `load_dataset`.
    """
    return find_dataset(name, options).info


def load_dataset(
    source: str | np.ndarray,
    labels: np.ndarray | None = None,
    *,
    test_images: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    class_names: Sequence[str | bytes | int] | None = None,
    **options: Any,
) -> Dataset:
    """Loads a data set by name, or makes one from arrays.

    'folder:PATH' has images in one folder per class (see `data.folder`), 'arrays:FILE.npz' has arrays (see `data.arrays`),
    'tfds:NAME[:VERSION]' is a data set prepared by tfds (see `data.tfds_sets`), and 'parquet:PATH' has tables of images (see
    `data.parquet`). The CIFAR sets are folders prepared by tfds, `<root>/<name>/3.x.y` in array_record or tfrecord; if there is
    no such folder, it is prepared from `data_archive` or a download. digits and synthetic_cifar10 need no files.

    Args:
      source: a name; or images, uint8 `[n, height, width]` or `[n, height, width, channels]` with 1 or 3 channels.
      labels: for images: integers `[n]` from 0.
      test_images, test_labels: for images: the test split; by default a share of each class.
      class_names: for images: one name for each class, of which text is made; by default '0', '1', ...
      **options: see `LoadOptions`.

    Raises:
      ConfigError: the name or an option is unknown, an option's value is not one that `TrainConfig` takes, `data_dir` is not a
        root, or the arrays do not make a data set.
      InputFileError: a file is missing, damaged or of another data set; or there is no data and no internet.
      ResourceError: the root cannot be written.
    """
    if unknown := sorted(options.keys() - {field.name for field in dataclasses.fields(LoadOptions)}):
        names = [field.name for field in dataclasses.fields(LoadOptions)]
        raise ConfigError(f'unknown option {unknown[0]!r}{did_you_mean(unknown[0], names) or "; expected " + ", ".join(names)}')
    checked = LoadOptions(**options)
    if isinstance(source, str):
        if not all(each is None for each in (labels, test_images, test_labels, class_names)):
            raise ConfigError(f'labels, test images and class names belong to arrays, and {source!r} is a name')
        return find_dataset(source, checked).dataset
    if labels is None:
        raise ConfigError('labels are missing: expected load_dataset(images, labels)')
    from resnet_jax.data.arrays import dataset_from_arrays

    dataset = dataset_from_arrays(
        source, labels, test_images=test_images, test_labels=test_labels, class_names=class_names, options=checked
    )
    return _normalized(LazyDataset.of(dataset), checked).dataset


def _resized(source: LazyDataset, options: LoadOptions) -> LazyDataset:
    """Returns a named data set with images resized to `image_size`; mean and std stay those of the original images."""
    size, info = options.image_size, source.known_info
    if not size or (info and info.image_shape[:2] == (size, size)):
        return source
    from resnet_jax.data.arrays import resize_split

    def load() -> Dataset:
        dataset = source.dataset
        train, test = resize_split(dataset.train, options), resize_split(dataset.test, options)
        validation = resize_split(dataset.validation, options) if dataset.validation else None
        name = f'{dataset.fingerprint}, {options.resize} {size}'
        return dataclasses.replace(dataset, train=train, test=test, validation=validation, fingerprint=name)

    return LazyDataset(load, info and dataclasses.replace(info, image_shape=(size, size, info.image_shape[-1])))


def _find(name: str) -> _Entry:
    if name in SOURCES:
        return _Entry(functools.partial(load_cifar, SOURCES[name]), SOURCES[name].info)
    if name not in _DATASETS:
        names = (*available_datasets(), *(f'{scheme}:PATH' for scheme in _SCHEMES))
        hint = did_you_mean(name, names) or '; change the name'
        if os.path.isdir(name):  # noqa: PTH112 (a name is any text)
            hint = f'; for a folder of images, folder:{name}'
        if name == ARRAYS:
            hint = '; these arrays were given from Python: save them as an .npz file, and name that, as arrays:FILE.npz'
        raise ConfigError(f"data set '{name}' is unknown: expected one of {', '.join(names)}{hint}")
    return _DATASETS[name]
