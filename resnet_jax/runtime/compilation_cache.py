"""JAX's persistent compilation cache, on by default for the commands, and never for who only imports the package.

JAX reads an entry that is damaged as an error and compiles, but does not replace it; where entries are compressed with zstd
(Python 3.14, or the package zstandard) a flipped bit is not noticed at all. Its own bound on the size needs the package
filelock, without which JAX turns the cache off, and fails for good once one of its time stamps is lost. So each start of a
command compares every entry with its checksum, deletes what differs, and keeps the newest entries up to `_MAX_BYTES`.

JAX's own variables come first: with JAX_COMPILATION_CACHE_DIR the folder is the user's, left as it is;
JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off.
"""

import json
import os
import sys
import zlib
from pathlib import Path

from resnet_jax.runtime.cache_folder import cache_dir
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.streams import tell

# Room for some 400 training steps compiled for a CPU; reading so much takes 0.1 s.
_MAX_BYTES = 256 * 2**20

# Of the 18 programs of a run of configs/quickstart.py four take longer, all others 0.5 s together; from the cache they take
# about as long as to compile. JAX's own threshold, 1 s, leaves out the evaluation of a small network.
_SECONDS = 0.1

_SUMS = 'checksums.json'


def use_compilation_cache() -> None:
    """Makes this process, and those that it starts, use the cache; call it before anything is compiled."""
    if os.environ.get('JAX_COMPILATION_CACHE_DIR') is not None or _turned_off():
        return
    folder = cache_dir() / 'compiled'
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there is run: nobody else may write it
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
    os.environ.update(settings)  # JAX reads them when it is imported,
    if jax := sys.modules.get('jax'):  # which a config file may have done already
        jax.config.update('jax_compilation_cache_dir', str(folder))
        seconds = float(settings['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'])
        jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)


def _turned_off() -> bool:
    value = os.environ.get('JAX_ENABLE_COMPILATION_CACHE', 'true').lower()
    return value in ('0', 'false', 'f', 'no', 'n', 'off')


def _check(folder: Path) -> None:
    """Deletes entries that are damaged, or the oldest where there are too many, and notes the checksums of the new ones.

    Raises:
      OSError: the folder cannot be written.
    """
    entries = [path for path in folder.rglob('*') if path.is_file() and not path.name.startswith(('.', _SUMS))]
    entries.sort(key=_modified, reverse=True)  # the newest first
    try:
        known = {str(name): int(value) for name, value in json.loads((folder / _SUMS).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}
    sums, size = {}, 0
    for path in entries:
        name = str(path.relative_to(folder))
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just deleted it
            continue
        size += len(data)
        crc = zlib.crc32(data)
        if size <= _MAX_BYTES and (known[name] == crc if name in known else _whole(path, data)):
            sums[name] = crc
        else:
            path.unlink(missing_ok=True)
    write_atomically(folder / _SUMS, json.dumps(sums))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _whole(path: Path, data: bytes) -> bool:
    """Whether an entry that was not here at the last start has been written to its end."""
    if not path.name.endswith('-cache'):  # XLA's own files: what it measured on a GPU
        return True
    try:
        _decompress(data)
    except ImportError:  # of another Python's JAX, which can tell
        return True
    except Exception:  # each library has its own
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
