"""JAX's persistent compilation cache: on by default for the commands; importing the package does not turn it on.

If an entry is damaged, JAX reports an error and compiles, but does not replace the entry; if entries are compressed with zstd
(Python 3.14, or the package zstandard), JAX does not even notice a flipped bit. JAX's size limit needs the package filelock
(without it, JAX turns the cache off), and fails permanently if one of its time stamps is lost. So each start of a command
verifies the checksum of every entry, deletes entries whose checksums differ, and keeps the newest entries up to `_MAX_BYTES`.

JAX's own variables take precedence. JAX_COMPILATION_CACHE_DIR names a folder of the user; its entries are neither checked nor
deleted, and it is not used if other users can write it. JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off.
"""

import json
import os
import sys
import zlib
from pathlib import Path

from resnet_jax.runtime.cache_folder import NotPrivateError, cache_dir, check_private, private_folder
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.streams import tell

# Enough for some 400 training steps compiled for a CPU; reading this much takes 0.1 s.
_MAX_BYTES = 256 * 2**20

# A run of configs/quickstart.py has 18 programs. Four take longer than this to compile; the others take 0.5 s together, and
# reading them from the cache would take about as long. JAX's default of 1 s would leave out the evaluation of a small network.
_SECONDS = 0.1

_CHECKSUMS = 'checksums.json'


def use_compilation_cache() -> None:
    """Makes this process and its child processes use the cache; call it before anything is compiled."""
    if _turned_off() or _has_own_folder():
        return
    folder = cache_dir() / 'compiled'
    try:
        folder = private_folder('compiled')  # entries are executed
        _check(folder)
    except OSError as error:
        tell(
            f'warning: compiled programs cannot be kept in {folder} ({error.strerror or error}): every start compiles anew; '
            'JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 asks for none'
        )
        return
    settings = {
        'JAX_COMPILATION_CACHE_DIR': str(folder),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': os.environ.get(
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', str(_SECONDS)
        ),
    }
    os.environ.update(settings)  # JAX reads them on import
    if jax := sys.modules.get('jax'):  # a config file may have imported JAX already
        jax.config.update('jax_compilation_cache_dir', str(folder))
        seconds = float(settings['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'])
        jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)


def _has_own_folder() -> bool:
    """Returns whether the user has chosen a folder; warns if other users can write it, because entries are executed."""
    chosen = os.environ.get('JAX_COMPILATION_CACHE_DIR')
    if not chosen or '://' in chosen:  # none, or in a cloud
        return chosen is not None
    try:
        check_private(Path(chosen).resolve())
    except NotPrivateError as error:
        tell(f'warning: JAX_COMPILATION_CACHE_DIR={chosen} is not used, {error.strerror}')
        return False
    except OSError:  # the folder does not exist yet
        return True
    return True


def _turned_off() -> bool:
    value = os.environ.get('JAX_ENABLE_COMPILATION_CACHE', 'true').lower()
    return value in ('0', 'false', 'f', 'no', 'n', 'off')


def _check(folder: Path) -> None:
    """Deletes damaged entries and the oldest ones beyond the size limit, and stores the checksums of new entries.

    Raises:
      OSError: the folder cannot be written.
    """
    entries = [path for path in folder.rglob('*') if path.is_file() and not path.name.startswith(('.', _CHECKSUMS))]
    entries.sort(key=_modified, reverse=True)  # newest first
    try:
        known = {str(name): int(value) for name, value in json.loads((folder / _CHECKSUMS).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}
    checksums, size = {}, 0
    for path in entries:
        name = str(path.relative_to(folder))
        try:
            check_private(path, new=str(path.relative_to(folder)) not in known)
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just deleted the entry
            continue
        except NotPrivateError as error:
            tell(f'warning: {error.filename} is not used, {error.strerror}; it is compiled anew')
            path.unlink(missing_ok=True)
            continue
        size += len(data)
        crc = zlib.crc32(data)
        if size <= _MAX_BYTES and (known[name] == crc if name in known else _whole(path, data)):
            checksums[name] = crc
        else:
            path.unlink(missing_ok=True)
    write_atomically(folder / _CHECKSUMS, json.dumps(checksums))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _whole(path: Path, data: bytes) -> bool:
    """Returns whether an entry that is new since the last start is complete."""
    if not path.name.endswith('-cache'):  # XLA's own files: autotuning results of a GPU
        return True
    try:
        _decompress(data)
    except ImportError:  # another Python compressed the entry with zstd, and can check it
        return True
    except Exception:  # each library has its own error classes
        return False
    return True


def _decompress(data: bytes) -> bytes:
    if not data.startswith(b'\x28\xb5\x2f\xfd'):
        return zlib.decompress(data)
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        import zstandard

        content: bytes = zstandard.ZstdDecompressor().decompress(data)
        return content
    content = zstd.decompress(data)
    return content
