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
    """Hides torch from tensorboardX, which does not need it but imports it if it is installed, taking a second."""
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
    """A TensorBoard event file, written by the calling thread.

    tensorboardX's own writer thread dies when the disk is full, and callers that wait for it hang.

    Args:
      folder: folder of the file, which is created at the first write.
      step: TensorBoard drops events of an interrupted run after this step.
    """

    def __init__(self, folder: Path, step: int):
        self._folder, self._step = folder, step
        self._writer: Any = None
        self._given_up = False

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends scalars by name; if that fails, logs a warning and stops writing."""
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
            # Each start needs its own file name: tensorboardX would overwrite a file that was started in the same second.
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
        """Closes the file; ignores errors, because a full disk must not hide the error that ended the run."""
        writer, self._writer = self._writer, None
        if writer:
            with contextlib.suppress(OSError):
                writer.close()
