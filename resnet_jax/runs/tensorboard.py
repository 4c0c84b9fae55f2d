"""TensorBoard's event files."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports torch if it is there, which takes a second, and does without if it is not."""
    absent = object()
    before = sys.modules.get('torch', absent)
    if before is absent:
        sys.modules['torch'] = None  # type: ignore[assignment]  # `import torch` raises ImportError
    try:
        yield
    finally:
        if before is absent:
            del sys.modules['torch']


class EventFile:
    """TensorBoard's events, written by this thread: tensorboardX's own dies of a full disk, and whoever waits for it hangs.

    Args:
      folder: where the file goes, with the first number.
      step: TensorBoard drops what an interrupted run wrote beyond it.
    """

    def __init__(self, folder: Path, step: int):
        self._folder, self._step = folder, step
        self._writer: Any = None
        self._given_up = False

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends numbers by name; where that fails, a warning says so, and no more is written."""
        if self._given_up:
            return
        with _without_torch():
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar

        with self._or_give_up():
            writer = self._open()
            for name, value in scalars.items():
                writer.write_event(Event(summary=scalar(name, value), step=step, wall_time=time.time()))
            writer.flush()

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A name of its own for each start, also within a second, in which tensorboardX would write over the other.
            self._writer = EventsWriter(str(self._folder / 'events'), f'.{os.getpid()}.{self._step}')
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(session_log=start, step=self._step + 1, wall_time=time.time()))
        return self._writer

    @contextlib.contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning('No more is written for TensorBoard: %s', error.strerror or error)
            self._given_up = True
            self.close()

    def close(self) -> None:
        """Closes the file; a full disk must not hide what ended the run."""
        writer, self._writer = self._writer, None
        if writer:
            with contextlib.suppress(OSError):
                writer.close()
