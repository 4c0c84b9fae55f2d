"""Data sets by name, as NumPy arrays: CIFAR-10, CIFAR-100, scikit-learn's digits, and random ones.

The only part that knows tfds, which it imports only to prepare or decode a data set; what is decoded is kept, so that later
starts take less than a second. Arrays in, arrays out: nothing but `augment` knows JAX.
"""

import difflib
import os

from resnet_jax.data.cifar import load_cifar
from resnet_jax.data.digits import load_digits
from resnet_jax.data.sources import SOURCES
from resnet_jax.data.split import Dataset, Split, hold_out
from resnet_jax.data.synthetic import SYNTHETIC, load_synthetic
from resnet_jax.errors import ConfigError

__all__ = ['Dataset', 'Split', 'available_datasets', 'check_name', 'hold_out', 'load_dataset']


def available_datasets() -> tuple[str, ...]:
    """Returns the names that `load_dataset` takes."""
    return (*SOURCES, 'digits', *SYNTHETIC)


def load_dataset(name: str, data_dir: str | os.PathLike | None = None, archive: str | os.PathLike | None = None) -> Dataset:
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
    if name == 'digits':
        return load_digits()
    if name in SYNTHETIC:
        return load_synthetic(name)
    check_name(name)
    return load_cifar(SOURCES[name], data_dir, archive)


def check_name(name: str) -> None:
    """Checks that there is a data set of this name.

    Raises:
        ConfigError: there is not; names the nearest.
    """
    if name not in available_datasets():
        nearest = difflib.get_close_matches(name, available_datasets(), n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else '; change the name'
        raise ConfigError(f"data set '{name}' is unknown: expected one of {', '.join(available_datasets())}{hint}")
