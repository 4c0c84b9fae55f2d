"""Reads untrusted files within size limits and escapes untrusted text."""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from resnet_jax.errors import InputFileError

_LARGEST_TEXT = 2**30  # bytes
_DEEPEST = 100  # levels of nesting in JSON
_LARGEST_INTEGER = 2**63


def read_text(path: Path) -> str:
    """Returns the text of a regular file; bytes that are not UTF-8 are replaced.

    Raises:
      OSError: there is no such file, or reading it may take forever or all memory: a device, a pipe or more than 1 GiB.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_TEXT:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f'it is not a regular file of at most {_LARGEST_TEXT:,} bytes', str(path))
    with os.fdopen(descriptor, 'rb') as file:
        return file.read(_LARGEST_TEXT).decode(errors='replace')


def check_regular(path: str | Path) -> None:
    """Checks that opening a file does not wait for a writer and that reading the file ends.

    Raises:
      OSError: there is no such file, or it is a device or a pipe.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, 'it is not a regular file', str(path))


def parse_json(text: str, *, lenient: bool = False) -> Any:
    """Returns the value of JSON with finite numbers and limited nesting.

    Args:
      lenient: read numbers that are not finite as None.

    Raises:
      ValueError: the text is not such JSON.
    """
    constant, number = (_none, _float_or_none) if lenient else (_refuse, _float)
    try:
        value = json.loads(text, parse_constant=constant, parse_float=number, parse_int=_integer)
        _check_depth(value, _DEEPEST)
    except RecursionError:
        raise ValueError('it is nested too deep') from None
    return value


def printable(text: object, keep: str = '') -> str:
    """Returns a text with every control character, such as those of escape sequences, as an escape like \\x1b.

    Args:
      keep: control characters that are kept, such as '\\n'.
    """
    return ''.join(c if c in keep or c.isprintable() or c == ' ' else ascii(c)[1:-1] for c in str(text))


def check_owned_files(folder: Path) -> None:
    """Checks that a run folder contains only files and folders: in a copied folder, links, pipes and devices may be a trap.

    Raises:
      InputFileError: it contains something else.
    """
    try:
        entries = list(os.scandir(folder))
        entries += [inner for entry in entries if entry.is_dir(follow_symlinks=False) for inner in os.scandir(entry)]
    except OSError:  # the folder does not exist yet, or opening it reports the error
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
            kind = 'a link' if entry.is_symlink() else 'a pipe or a device'
            raise InputFileError(
                f'{printable(entry.path)} is {kind}; expected files and folders only, for a run writes there: remove it'
            )


def _none(name: str) -> None:
    return None


def _float_or_none(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f'{name} is no number that a run writes')


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f'{text[:20]} is too large')
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > _LARGEST_INTEGER:
        raise ValueError(f'{text[:20]} is too large')
    return value


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise ValueError('it is nested too deep')
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
