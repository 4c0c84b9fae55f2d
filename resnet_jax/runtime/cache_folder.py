"""The cache folder of the commands, for decoded images and compiled programs, and checks of its owner."""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from resnet_jax.runtime.streams import tell


def cache_dir() -> Path:
    """Returns RESNET_JAX_CACHE_DIR, else XDG_CACHE_HOME/resnet_jax, else ~/.cache/resnet_jax; the folder may not exist."""
    if own := os.environ.get('RESNET_JAX_CACHE_DIR'):
        return Path(os.path.expanduser(own))  # noqa: PTH111 (Path's raises without a home)
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.path.expanduser(base)) / 'resnet_jax'  # noqa: PTH111


def private_folder(name: str) -> Path:
    """Returns a folder in `cache_dir` for files that are executed; creates it so that no other user can read or write it.

    If another user could have written an existing folder, warns and returns a folder among the temporary files.

    Raises:
      OSError: the folder cannot be created.
    """
    try:
        return _make_private(cache_dir(), name)
    except NotPrivateError as error:
        instead = Path(tempfile.gettempdir()) / f'resnet_jax-{os.getuid()}'
        tell(f'warning: {error.filename} is not used, {error.strerror}; what it is for goes to {instead}')
        return _make_private(instead, name)


def _make_private(root: Path, name: str) -> Path:
    root.parent.mkdir(parents=True, exist_ok=True)
    for folder in (root, root / name):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # independent of the umask
        check_private(folder)
    return root / name


class NotPrivateError(OSError):
    """Another user can have written a file or folder."""


def check_private(path: Path, *, new: bool = False) -> None:
    """Checks that only this user and root can have written a file or folder.

    Args:
      new: the file was just written into a private folder, with the mode of the umask; makes it private.

    Raises:
      NotPrivateError: another user can have written it.
      OSError: there is no such file.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise NotPrivateError(0, 'for it is a link', str(path))
    if status.st_uid not in (os.getuid(), 0):
        raise NotPrivateError(0, 'for it belongs to another user', str(path))
    if new:
        path.chmod(status.st_mode & 0o700)
    elif status.st_mode & 0o022:
        raise NotPrivateError(0, 'for others can write it (chmod go-w helps)', str(path))


def delete_leftovers(folder: Path, pattern: str) -> None:
    """Deletes entries that match `pattern` and are older than an hour: partial files of killed processes."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
