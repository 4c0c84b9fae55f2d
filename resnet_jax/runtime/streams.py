"""Standard output and standard error: they may be closed, full, without a reader or unable to show a name.

Failures of stderr never change a command's result; failures of stdout change it only if output is lost.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from resnet_jax.runtime.untrusted import printable

_FULL = 5  # errors.ResourceError


def show_any_text() -> None:
    """Escapes characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]


def tell(line: str) -> None:
    """Prints a line to standard error, if possible."""
    if sys.stderr is not None:
        try:
            print(printable(line), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            silence(sys.stderr)


def tell_at_once(line: bytes) -> None:
    """Writes a line to standard error without Python's buffers, because another thread may hold their locks."""
    with contextlib.suppress(OSError):
        os.write(2, line)


def silence(stream: IO[str]) -> None:
    """Redirects a stream to /dev/null, so that Python does not report the error again on exit."""
    with contextlib.suppress(OSError, ValueError):  # no file, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def without_native_messages() -> Iterator[None]:
    """Discards messages that compiled libraries write to standard error without `sys.stderr`."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with Path(os.devnull).open('wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def finish(code: int, text: str = '') -> int:
    """Prints `text`, if there is any, and flushes both streams; returns the exit code of the process."""
    for stream, last in ((sys.stdout, text), (sys.stderr, '')):
        if stream is None:
            continue
        try:
            if last:
                print(printable(last, keep='\n'), file=stream)
            stream.flush()
        except OSError as error:
            silence(stream)
            if stream is sys.stdout and not code:
                if error.errno == errno.EPIPE:  # the reader has gone (`| head`)
                    code = 128 + signal.SIGPIPE
                else:
                    tell(f'error: standard output cannot be written: {error.strerror}; check the disk that it goes to')
                    code = _FULL
    return code
