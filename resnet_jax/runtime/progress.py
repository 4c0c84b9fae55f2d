"""Progress of long work, on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from resnet_jax.runtime.streams import tell

SECONDS_PER_LINE = 5.0
_SECONDS_PER_FRAME = 0.1


@contextlib.contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done; the body calls the yielded `advance(count)` as often as it likes.

    `unit` is 'images' or 'MB' (then `total` and the counts are bytes); `total` is None if it is not known.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    interval = _SECONDS_PER_FRAME if terminal else SECONDS_PER_LINE
    scale = 1e6 if unit == 'MB' else 1
    done, shown = 0, time.monotonic()
    with _bar(description, total, scale, unit) if terminal else _lines(description, total, scale, unit) as show:

        def advance(count: int) -> None:
            nonlocal done, shown
            done += count
            if time.monotonic() - shown >= interval:
                shown = time.monotonic()
                show(done)

        yield advance
        show(done)


@contextlib.contextmanager
def _lines(description: str, total: int | None, scale: float, unit: str) -> Iterator[Callable[[int], None]]:
    def show(done: int) -> None:
        of = '' if total is None else f' of {total / scale:,.0f}'
        tell(f'{description}: {done / scale:,.0f}{of} {unit}')

    yield show


@contextlib.contextmanager
def _bar(description: str, total: int | None, scale: float, unit: str) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn('{task.description}'),
        rich_progress.BarColumn(),
        rich_progress.TextColumn('{task.completed:,.0f} ' + (unit if total is None else 'of {task.total:,.0f} ' + unit)),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None if total is None else total / scale)
        yield lambda done: bar.update(task, completed=done / scale)
