"""Console output during a run: a progress bar on a terminal, plain lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.errors import LiveError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from resnet_jax.runtime.streams import silence
from resnet_jax.runtime.untrusted import printable


class _ConsoleHandler(logging.Handler):
    """Prints to the current standard output; while a bar is shown, rich replaces this stream to print above the bar."""

    def __init__(self, stream: str):
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = getattr(sys, self._stream)
        if stream is None:  # closed before Python started
            return
        text, encoding = printable(self.format(record)), getattr(stream, 'encoding', None) or 'utf-8'
        if (record.threadName or '').startswith('seed '):  # one of several runs at the same time
            text = f'{record.threadName}: {text}'
        try:
            print(text.encode(encoding, 'backslashreplace').decode(encoding), file=stream, flush=True)
        except OSError:  # The reader has gone (`| head`, a lost terminal), or the disk is full; the run continues.
            silence(stream)


def log_to_console(stream: str = 'stdout') -> Callable[[], None]:
    """Sends the package's log messages to sys.stdout or sys.stderr, from process 0 only.

    Does nothing if the package's logger already has a handler.

    Returns:
      A function that restores the logger.
    """
    package = logging.getLogger('resnet_jax')
    if package.handlers:
        return lambda: None
    level, propagate = package.level, package.propagate
    handler = _ConsoleHandler(stream) if jax.process_index() == 0 else logging.NullHandler()
    package.setLevel(logging.INFO)
    package.propagate = False
    package.addHandler(handler)

    def undo() -> None:
        package.removeHandler(handler)
        package.setLevel(level)
        package.propagate = propagate

    return undo


_IMPORTED = time.monotonic()


def seconds_since_start() -> float:
    """Returns the age of this process in seconds or, if it is unknown, the time since this module was imported."""
    try:
        ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])  # field 22 of proc(5), since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, AttributeError):
        return time.monotonic() - _IMPORTED


def duration(seconds: float) -> str:
    """Returns e.g. '0:04:31' or '3 days 02:10:00'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f'{days} day{"s" if days > 1 else ""} {hours:02}' if days else f'{hours}') + f':{minutes:02}:{rest:02}'


class ProgressBar:
    """A bar over `total` steps with loss, accuracy, images/s and the time left; shows nothing outside a terminal."""

    def __init__(self, total: int, description: str):
        self._bar = None
        if sys.stdout is not None and sys.stdout.isatty() and jax.process_index() == 0:
            columns = [TextColumn('{task.description}'), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._bar = Progress(*columns, TextColumn('{task.fields[status]}'), refresh_per_second=4)
            self._task = self._bar.add_task(description, total=total, status='compiling')

    def __enter__(self) -> 'ProgressBar':
        if self._bar:
            try:
                self._bar.start()
            except LiveError:  # another run in this process has a bar
                self._bar = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, status: str) -> None:
        """Shows the number of finished steps, and a text beside the bar."""
        if self._bar:
            self._bar.update(self._task, completed=done, status=status)
