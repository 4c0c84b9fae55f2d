"""The cache folder of the commands, for decoded images and compiled programs."""

import contextlib
import os
import shutil
import time
from pathlib import Path


def cache_dir() -> Path:
    """Returns RESNET_JAX_CACHE_DIR, else XDG_CACHE_HOME/resnet_jax, else ~/.cache/resnet_jax; the folder may not exist."""
    if own := os.environ.get('RESNET_JAX_CACHE_DIR'):
        return Path(os.path.expanduser(own))  # noqa: PTH111 (Path's raises without a home)
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.path.expanduser(base)) / 'resnet_jax'  # noqa: PTH111


def delete_leftovers(folder: Path, pattern: str) -> None:
    """Deletes entries that match `pattern` and are older than an hour: partial files of killed processes."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
