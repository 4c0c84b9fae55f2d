"""Files that are written in whole or not at all."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: str | Path, data: bytes | str | Callable[[IO[bytes]], object], *, durable: bool = False) -> Path:
    """Writes a file so that a reader sees the old content or the new, never a part; returns its path.

    Two processes that write the same file do not meet: each has a temporary file of its own, `.<name>.<unique>.partial`,
    which only a killed process leaves.

    Args:
      data: the content, text as UTF-8, or a function that writes it to a file.
      durable: wait until the disk has it.

    Raises:
      OSError: it cannot be written; the file is as it was.
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
    """Returns the glob pattern of the temporary files of a file of this name."""
    return f'.{name}.*.partial'
