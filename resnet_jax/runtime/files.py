"""Atomic file writes."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: str | Path, data: bytes | str | Callable[[IO[bytes]], object], *, durable: bool = False) -> Path:
    """Writes a file atomically, so that a reader sees the old content or the new one; returns its path.

    Several processes may write the same file: each uses its own temporary file, `.<name>.<unique>.partial`, which remains only
    if the process is killed.

    Args:
      data: the content, text as UTF-8, or a function that writes it to a file.
      durable: wait until the data are on disk.

    Raises:
      OSError: the file cannot be written; its old content is unchanged.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial')
    try:
        with partial.open('wb') as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_pattern(name: str) -> str:
    """Returns a glob pattern for the temporary files of a file with this name."""
    return f'.{name}.*.partial'
