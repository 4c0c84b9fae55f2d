"""Compiles the kernels with the machine's C compiler, once, and registers them with XLA."""

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
import subprocess
import tempfile
from pathlib import Path

import jax

from resnet_jax.runtime.cache_folder import cache_dir

logger = logging.getLogger(__name__)

NAMES = ('conv', 'kernel_gradient', 'winograd', 'winograd_kernel_gradient')
_SOURCES = ('kernels.h', 'direct.c', 'winograd.c')
_FLAGS = ('-O3', '-ffp-contract=fast', '-fvisibility=hidden', '-fPIC', '-shared', '-pthread')


class Library:
    """The compiled kernels.

    Attributes:
      lanes: floats per vector; output channels must be a multiple of it.
      target: method that returns XLA's name of a kernel. The name has a hash of all that the machine code depends on, so that
        a program from the persistent compilation cache only calls the kernel that it was compiled with.
    """

    def __init__(self, path: Path, key: str):
        library = ctypes.CDLL(str(path))
        self.lanes: int = library.resnet_jax_lanes()
        self._key = key
        for name in NAMES:
            capsule = jax.ffi.pycapsule(getattr(library, f'resnet_jax_{name}'))
            jax.ffi.register_ffi_target(self.target(name), capsule, platform='cpu')

    def target(self, name: str) -> str:
        return f'resnet_jax_{name}_{self._key}'


@functools.cache
def library() -> Library | None:
    """Returns the kernels, compiled if necessary (about 2 seconds); logs a warning and returns None if that fails."""
    try:
        return _build()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        logger.warning('Convolutions on the CPU run in slower forms: %s', error)
        return None


def _build() -> Library:
    compiler = _compiler()
    sources = [Path(__file__).parent / name for name in _SOURCES]
    texts = [source.read_bytes() for source in sources]
    jaxlib = importlib.metadata.version('jaxlib')
    key = _hash(*texts, jaxlib.encode(), ' '.join([*compiler, *_FLAGS]).encode(), _processor())[:16]
    try:
        folder = cache_dir() / 'kernels'
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # its files are executed: no other user may write them
        kept = folder / f'{key}.so'
        if _intact(kept):
            return Library(kept, key)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = _compile(compiler, sources, Path(scratch))
            made.with_suffix('.sha256').write_text(_hash(made.read_bytes()))
            made.replace(kept)
            made.with_suffix('.sha256').replace(kept.with_suffix('.sha256'))
        return Library(kept, key)
    except (OSError, RuntimeError):  # a cache folder that cannot be written, or is full
        with tempfile.TemporaryDirectory() as scratch:
            return Library(_compile(compiler, sources, Path(scratch)), key)  # a loaded library needs no file


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode == 0:
            return made
        errors = errors or done.stderr.strip()
    raise RuntimeError(f'{shlex.join(compiler)} could not compile them: {errors.splitlines()[0] if errors else "no message"}')


def _processor() -> bytes:
    """Returns what -march=native depends on, because different machines may share a home folder."""
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_bytes().splitlines()
        return b'\n'.join(sorted({line for line in lines if line.startswith((b'model', b'flags', b'Features', b'CPU part'))}))
    return f'{platform.machine()} {platform.processor()}'.encode()


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()


def _intact(path: Path) -> bool:
    try:
        return _hash(path.read_bytes()) == path.with_suffix('.sha256').read_text()
    except (OSError, ValueError):
        return False
