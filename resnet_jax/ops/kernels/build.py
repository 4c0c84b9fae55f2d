"""Compiles the kernels once, with the machine's C compiler, and registers them with XLA."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from resnet_jax.runtime.cache_folder import NotPrivateError, check_private, delete_leftovers, private_folder

logger = logging.getLogger(__name__)

NAMES = ('conv', 'kernel_gradient', 'winograd', 'winograd_kernel_gradient')
_SOURCES = ('kernels.h', 'direct.c', 'winograd.c')
_SECONDS = 60.0  # for a compiler that takes about 2
# Loads the library in a separate process, because a broken library may crash it.
_LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
assert library.resnet_jax_lanes() in (4, 8, 16), f'{library.resnet_jax_lanes()} floats in a vector'
for name in sys.argv[2:]:
    getattr(library, f'resnet_jax_{name}')
"""
_FLAGS = ('-O3', '-ffp-contract=fast', '-fvisibility=hidden', '-fPIC', '-shared', '-pthread')


class Library:
    """The compiled kernels.

    Attributes:
      lanes: floats per vector; output channels must be a multiple of it.
      target: method that returns XLA's name of a kernel. The name contains a hash of everything that the machine code depends
        on, so a program from the persistent compilation cache only calls the kernel that it was compiled with.
    """

    def __init__(self, path: Path, key: str):
        library = ctypes.CDLL(str(path))
        self.lanes: int = library.resnet_jax_lanes()
        self._key = key
        for name, function in [(name, getattr(library, f'resnet_jax_{name}')) for name in NAMES]:
            jax.ffi.register_ffi_target(self.target(name), jax.ffi.pycapsule(function), platform='cpu')

    def target(self, name: str) -> str:
        """Returns the name by which `jax.ffi` calls a kernel."""
        return f'resnet_jax_{name}_{self._key}'


@functools.cache
def library() -> Library | None:
    """Returns the kernels, compiled if necessary (about 2 seconds); logs a warning and returns None if that fails."""
    try:
        return _build()
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        logger.warning('Convolutions on the CPU run in slower forms: %s', error)
        return None


def _build() -> Library:
    compiler = _compiler()
    sources = [Path(__file__).parent / name for name in _SOURCES]
    texts = [source.read_bytes() for source in sources]
    jaxlib = importlib.metadata.version('jaxlib')
    key = _hash(*texts, jaxlib.encode(), ' '.join([*compiler, *_FLAGS]).encode(), _processor())[:16]
    try:
        folder = private_folder('kernels')  # its files are executed
        kept = folder / f'{key}.so'
        if _intact(kept):
            return Library(kept, key)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            delete_leftovers(folder, 'tmp*')  # from a process that was killed
            made = _compile(compiler, sources, Path(scratch))
            made.with_suffix('.sha256').write_text(_hash(made.read_bytes()))
            for file in (made, made.with_suffix('.sha256')):
                check_private(file, new=True)
            made.replace(kept)
            made.with_suffix('.sha256').replace(kept.with_suffix('.sha256'))
        return Library(kept, key)
    except (OSError, RuntimeError, AttributeError):  # the cache folder is full, or files in it cannot be written or executed
        with tempfile.TemporaryDirectory() as scratch:
            return Library(_compile(compiler, sources, Path(scratch)), key)  # a loaded library does not need its file


def _compiler() -> list[str]:
    if os.environ.get('CC'):
        try:
            return shlex.split(os.environ['CC'])
        except ValueError as error:
            raise RuntimeError(
                f'CC is {os.environ["CC"]!r}, which is no command ({error}); expected one, such as gcc'
            ) from None
    for name in ('cc', 'gcc', 'clang'):
        if compiler := shutil.which(name):
            return [compiler]
    raise RuntimeError('found no C compiler (cc, gcc or clang); install one, or set CC to it')


def _compile(compiler: list[str], sources: list[Path], folder: Path) -> Path:
    made = folder / 'kernels.so'
    errors = ''
    for native in ('-march=native', '-mcpu=native'):  # clang on ARM knows only the second
        files = [str(source) for source in sources if source.suffix == '.c']
        command = [*compiler, *_FLAGS, native, f'-I{jax.ffi.include_dir()}', *files, '-o', str(made)]
        code, said = _run(command, folder)
        if code == 0:
            code, said = _run([sys.executable, '-I', '-c', _LOAD, str(made), *NAMES], folder)
            if code == 0:
                return made
            said = f'what it made cannot be used: {(said.splitlines() or [f"loading it ends with exit code {code}"])[-1]}'
        errors = errors or said or f'exit code {code}'
    raise RuntimeError(f'{shlex.join(compiler)} could not compile them: {errors.splitlines()[0]}')


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Returns the exit code of a command and the beginning of its standard error.

    Raises:
      SubprocessError: the command takes more than _SECONDS; it is then killed with its child processes.
    """
    with (folder / 'errors').open('w+b') as errors:  # not a pipe, which an orphaned child would keep open
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise subprocess.SubprocessError(f'{command[0]} did not end within {_SECONDS:g} seconds') from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        return code, errors.read(4000).decode(errors='replace').strip()


def _processor() -> bytes:
    """Identifies the processor: -march=native depends on it, and different machines may share a home folder."""
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_bytes().splitlines()
        return b'\n'.join(sorted({line for line in lines if line.startswith((b'model', b'flags', b'Features', b'CPU part'))}))
    return f'{platform.machine()} {platform.processor()}'.encode()


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def _intact(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        check_private(path)
    except NotPrivateError as error:
        logger.warning('%s is not used, %s; it is compiled anew', path, error.strerror)
        return False
    except OSError:
        return False
    try:
        return _hash(path.read_bytes()) == path.with_suffix('.sha256').read_text()
    except (OSError, ValueError):
        return False
