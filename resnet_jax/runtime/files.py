"""Atomic file writes, and the checksum of a file."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from resnet_jax.runtime.untrusted import check_regular

logger = logging.getLogger(__name__)
_UNFINISHED = re.compile(r'\..+\.[0-9]+-[0-9a-f]{8}\.partial', re.DOTALL)
_written_here: set[Path] = set()  # the temporary files and folders of this process


def write_atomically(path: str | Path, data: bytes | str | Callable[[IO[bytes]], object], *, durable: bool = False) -> Path:
    """Writes a file atomically, so that a reader sees either the old or the new content; returns its path.

    Several processes may write the same file: each uses a different temporary file, `.<name>.<unique>.partial`. Only a killed
    process leaves this file behind, and the next write into the folder deletes it.

    Args:
      data: the content (text is written as UTF-8), or a function that writes the content to a file.
      durable: wait until the data are on disk.

    Raises:
      OSError: the file cannot be written; its old content is unchanged.
    """
    path = Path(path)
    with _unfinished(path, Path.touch) as partial:
        with partial.open('wb') as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode(errors='backslashreplace') if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return partial.replace(path)


def write_json(path: str | Path, value: object, *, durable: bool = False) -> None:
    """Writes a JSON file atomically: see `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=1) + '\n', durable=durable)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a regular file, in hexadecimal digits."""
    check_regular(path)
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def folder_in_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; renames it to `path` on success, deletes it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(path, Path.mkdir) as partial:
        yield partial
        partial.replace(path)


@contextlib.contextmanager
def one_process(path: Path, waiting: str) -> Iterator[None]:
    """Holds a file lock so that one process works while others wait.

    Args:
      path: the file to lock; it is created.
      waiting: the message to log while another process holds the lock.

    Raises:
      OSError: the file cannot be created, or it is a device or a pipe.
    """
    with open(path, 'a', opener=_without_waiting) as file:
        check_regular(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning('%s', waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks; files are still renamed into place
        yield


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)  # otherwise opening a pipe would wait for a reader


@contextlib.contextmanager
def _unfinished(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Makes and locks a temporary file or folder; deletes it at the end if it has not been renamed."""
    delete_unfinished(path.parent)
    partial = path.with_name(f'.{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial')
    handle = None
    _written_here.add(partial)
    try:
        while handle is None:
            make(partial)
            handle = _hold(partial)
        yield partial
    finally:
        _delete(partial)
        _written_here.discard(partial)
        if handle is not None:
            os.close(handle)


def _hold(partial: Path) -> int | None:
    """Returns a handle with a lock; None if another process deleted the file before it was locked."""
    try:
        handle = os.open(partial, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # some network file systems have no locks: leftovers stay there
        fcntl.flock(handle, fcntl.LOCK_EX)
    if partial.exists():
        return handle
    os.close(handle)
    return None


def delete_unfinished(folder: Path) -> None:
    """Deletes temporary files and folders that killed processes left in a folder; no process has locked them."""
    with contextlib.suppress(OSError):  # the folder does not exist, or may not be read
        for path in [Path(entry) for entry in os.scandir(folder) if _UNFINISHED.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):  # locked; or the file system has no locks
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _delete(path)
                finally:
                    os.close(handle)


def delete_own_unfinished() -> None:
    """Deletes this process's temporary files and folders; call it before an exit while they are being written."""
    for path in tuple(_written_here):
        _delete(path)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
