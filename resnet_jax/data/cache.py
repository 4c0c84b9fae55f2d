"""Caches decoded arrays as memory-mapped .npy files, so that later starts read them at once.

There is one folder per key under `cache_folder.cache_dir()`. The folders can be deleted at any time; a damaged entry is made
again.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from resnet_jax.runtime.cache_folder import cache_dir, delete_leftovers
from resnet_jax.typing import Json, JsonDict

logger = logging.getLogger(__name__)

# The checksums of larger arrays are not compared, because every start would read the whole array.
CHECKED_BYTES = 4 * 2**30


class ArrayWriter(Protocol):
    """Takes the arrays of the function `make` of `cached`."""

    def write(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        """Writes an array from one or more blocks along its first axis; dtype and other axes must be equal in all blocks."""
        ...


@dataclasses.dataclass(frozen=True)
class Cached:
    """The arrays that `make` wrote, read-only, and the facts that it returned."""

    arrays: dict[str, np.ndarray]
    facts: Json


def cached(key: str, make: Callable[[ArrayWriter], JsonDict]) -> Cached:
    """Returns the arrays cached under `key`; makes and caches them if they are missing or damaged.

    Args:
      make: writes arrays and returns facts about them, as JSON. If the cache cannot be written, `make` is called again, after
        a warning, and the arrays are kept in memory.
    """
    folder = cache_dir() / key
    result = _load(folder)
    if result is not None:
        return result
    try:
        _store(folder, make)
    except OSError as error:
        logger.warning('cannot keep the decoded images in %s (%s): the next start decodes them again', folder, error)
    # Reads the arrays back, so that the first start returns the same kind of array as later starts.
    result = _load(folder)
    if result is not None:
        return result
    memory = _Memory({})
    facts = make(memory)
    return Cached(memory.arrays, facts)


def _load(folder: Path) -> Cached | None:
    if not os.path.lexists(folder):  # False also if it cannot be known; Path's function raises
        return None
    try:
        described = json.loads((folder / 'arrays.json').read_text())
        arrays = {}
        for name, (dtype, shape, checksum) in described['arrays'].items():
            mapped = np.load(folder / f'{name}.npy', mmap_mode='r', allow_pickle=False)
            if [mapped.dtype.str, list(mapped.shape)] != [dtype, shape] or not _is_sound(mapped, checksum):
                raise ValueError(f'{name}.npy is not the array that was written')
            arrays[name] = np.asarray(mapped)
        return Cached(arrays, described['facts'])
    except Exception as error:  # a damaged .npy or .json file may raise anything
        logger.warning('the decoded images in %s are damaged (%s): making them again', folder, error)
        return None


def _is_sound(array: np.ndarray, checksum: int) -> bool:
    # CRC-32 runs at gigabytes per second, and reading brings the pages into memory.
    return array.nbytes > CHECKED_BYTES or zlib.crc32(array.data) == checksum


class _Memory:
    """Keeps arrays in memory."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def write(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        self.arrays[name] = np.concatenate(list(blocks))
        self.arrays[name].flags.writeable = False


class _Disk:
    """Writes arrays as .npy files, without a memory map: a full disk would end the process with SIGBUS."""

    def __init__(self, folder: Path):
        self._folder, self.described = folder, dict[str, list[object]]()

    def write(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        checksum, length, first = 0, 0, None
        with (self._folder / f'{name}.npy').open('wb') as file:
            for block in blocks:
                if first is None:
                    first = block
                    file.write(_header(first, 2**62))  # has the length of the final header
                data = np.ascontiguousarray(block)
                checksum, length = zlib.crc32(data.data, checksum), length + len(block)
                file.write(data.data)
            assert first is not None
            file.seek(0)
            file.write(_header(first, length))
        self.described[name] = [first.dtype.str, [length, *first.shape[1:]], checksum]


def _header(block: np.ndarray, length: int) -> bytes:
    """Returns the header of an .npy file; its size does not depend on `length`."""
    file = io.BytesIO()
    description = {'descr': block.dtype.str, 'fortran_order': False, 'shape': (length, *block.shape[1:])}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _store(folder: Path, make: Callable[[ArrayWriter], JsonDict]) -> None:
    """Writes into a temporary folder and renames it, so that other processes see either the whole folder or nothing."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    delete_leftovers(folder.parent, f'.{folder.name}.*')
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        disk = _Disk(temporary)
        facts = make(disk)
        (temporary / 'arrays.json').write_text(json.dumps({'arrays': disk.described, 'facts': facts}))
        if _load(folder) is None:  # another process may have been first
            shutil.rmtree(folder, ignore_errors=True)  # damaged
            with contextlib.suppress(FileExistsError):
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
