"""Reads untrusted .npz files: executes nothing in them and checks claimed sizes before allocating memory."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from resnet_jax.errors import one_line

_LARGEST = 4 * 2**30  # bytes of all arrays in a file


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays by name.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is damaged, contains anything but arrays of numbers and strings, or claims more bytes than it has.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError('it is not a regular file')
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _LARGEST:
                raise ValueError(f'it unfolds to more than {_LARGEST:,} bytes')
            for entry in entries:
                with archive.open(entry) as file:
                    shape, dtype = _read_header(file)
                    if math.prod(shape) * max(dtype.itemsize, 1) > entry.file_size:  # '<U0' has no bytes
                        raise ValueError(f'{entry.filename[:80]!r} claims {list(shape)} and has {entry.file_size} bytes')
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy may raise anything for a damaged file
        raise ValueError(f'it is no sound .npz file: {one_line(error)[:200]}') from None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    except MemoryError:  # from Python's parser, for deep nesting
        raise ValueError('the header of an array is nested too deep') from None
    return shape, dtype
