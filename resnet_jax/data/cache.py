"""Caches decoded arrays as memory-mapped .npy files, so that later starts read them at once.

There is one folder per source fingerprint under `cache_folder.cache_dir()`. All of it can be deleted at any time; a damaged
entry is created again.
"""

import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_jax.data.split import Split
from resnet_jax.runtime.cache_folder import cache_dir, delete_leftovers

logger = logging.getLogger(__name__)
_ARRAYS = ('train_image', 'train_label', 'test_image', 'test_label')


def cached(key: str, decode: Callable[[], tuple[Split, Split]]) -> tuple[Split, Split]:
    """Returns the (train, test) splits cached under `key`; decodes and caches them if they are missing or damaged.

    Logs a warning if the cache cannot be written.
    """
    folder = cache_dir() / key
    splits = _load(folder)
    if splits is None:
        splits = decode()
        try:
            if _load(folder) is None:  # another process may have been first
                _store(folder, *splits)
        except OSError as error:
            logger.warning('cannot keep the decoded images in %s (%s): the next start decodes them again', folder, error)
        # Read back, so that the first start returns the same kind of array as all others.
        splits = _load(folder) or splits
    return splits


def _load(folder: Path) -> tuple[Split, Split] | None:
    if not folder.exists():
        return None
    try:
        expected = json.loads((folder / 'arrays.json').read_text())
        arrays = {name: np.load(folder / f'{name}.npy', mmap_mode='r', allow_pickle=False) for name in _ARRAYS}
        for name, array in arrays.items():
            if _describe(array) != expected[name]:
                raise ValueError(f'{name}.npy is not the array that was written')
    except Exception as error:  # whatever a damaged .npy or .json file raises
        logger.warning('the decoded images in %s are damaged (%s): making them again', folder, error)
        return None
    train_image, train_label, test_image, test_label = (np.asarray(arrays[name]) for name in _ARRAYS)
    return Split(train_image, train_label), Split(test_image, test_label)


def _describe(array: np.ndarray) -> list[object]:
    # CRC-32 runs at gigabytes per second, and reading brings the pages into memory.
    return [array.dtype.str, list(array.shape), zlib.crc32(array.data)]


def _store(folder: Path, train: Split, test: Split) -> None:
    """Writes into a temporary folder and renames it, so that another process sees all of it or nothing."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    delete_leftovers(folder.parent, f'.{folder.name}.*')
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        arrays = dict(zip(_ARRAYS, (train.image, train.label, test.image, test.label), strict=True))
        for name, array in arrays.items():
            np.save(temporary / f'{name}.npy', array, allow_pickle=False)
        (temporary / 'arrays.json').write_text(json.dumps({name: _describe(array) for name, array in arrays.items()}))
        if folder.exists():  # damaged
            shutil.rmtree(folder)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # it exists if another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
