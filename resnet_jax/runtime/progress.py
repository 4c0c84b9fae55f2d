"""Progress of long work, on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from resnet_jax.runtime.streams import tell

SECONDS_PER_LINE = 5.0
_SECONDS_PER_FRAME = 0.1
_SAMPLES = 20  # number of samples of the received bytes, over about SECONDS_PER_LINE


@contextlib.contextmanager
def progress(description: str, total: int | None, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done; the body calls the yielded `advance(count)`.

    Args:
      total: None if unknown.
      unit: 'images' or 'MB'; with 'MB', `total` and the counts are in bytes, and the rate and the remaining time are shown.
      done: the part that was done earlier.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    interval = _SECONDS_PER_FRAME if terminal else SECONDS_PER_LINE
    scale = 1e6 if unit == 'MB' else 1
    shown = time.monotonic()
    rate = _Rate(total, done)
    with _bar(description, total, scale, unit) if terminal else _lines(description, total, scale, unit) as show:

        def advance(count: int) -> None:
            nonlocal done, shown
            done += count
            if time.monotonic() - shown >= interval:
                shown = time.monotonic()
                show(done, rate.describe(done) if unit == 'MB' else '')

        yield advance
        show(done, '')


class _Rate:
    """The rate of the last seconds, in bytes per second, and the remaining time at this rate."""

    def __init__(self, total: int | None, done: int):
        self._total, self._samples = total, collections.deque([(time.monotonic(), done)], maxlen=_SAMPLES)

    def describe(self, done: int) -> str:
        now = time.monotonic()
        if now - self._samples[-1][0] >= SECONDS_PER_LINE / _SAMPLES:
            self._samples.append((now, done))
        since, before = self._samples[0]
        if now <= since or done <= before:
            return ''
        rate = (done - before) / (now - since)
        text = f', {rate / 1e6:,.2f} MB/s'
        if self._total is None:
            return text
        left = (self._total - done) / rate
        return text + f', {f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"} left'


@contextlib.contextmanager
def _lines(description: str, total: int | None, scale: float, unit: str) -> Iterator[Callable[[int, str], None]]:
    def show(done: int, more: str) -> None:
        of = '' if total is None else f' of {total / scale:,.0f}'
        tell(f'{description}: {done / scale:,.0f}{of} {unit}{more}')

    yield show


@contextlib.contextmanager
def _bar(description: str, total: int | None, scale: float, unit: str) -> Iterator[Callable[[int, str], None]]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn('{task.description}', markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn(
            '{task.completed:,.0f} ' + ('' if total is None else 'of {task.total:,.0f} ') + unit + '{task.fields[more]}',
            markup=False,
        ),
        *(() if unit == 'MB' else (rich_progress.TimeRemainingColumn(),)),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None if total is None else total / scale, more='')
        yield lambda done, more: bar.update(task, completed=done / scale, more=more)
