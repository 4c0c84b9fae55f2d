"""TensorBoard's event files: one TensorBoard run per split, with equal tags, so that TensorBoard draws them together."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.runtime.untrusted import printable
from resnet_jax.typing import Json

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.summary_pb2 import Summary

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides torch from tensorboardX: it does not need torch, but imports it if it is installed, which takes a second."""
    absent = object()
    before = sys.modules.get('torch', absent)
    if before is absent:
        sys.modules['torch'] = None  # type: ignore[assignment]  # `import torch` raises ImportError
    try:
        yield
    finally:
        if before is absent:
            del sys.modules['torch']


class EventFiles:
    """The TensorBoard event files of a run, written by the calling thread.

    tensorboardX's writer thread is not used: it dies when the disk is full, and callers that wait for it hang.

    Args:
      folder: contains one folder per split; these are created at the first write.
      step: TensorBoard drops events of an interrupted run after this step.
      config: the fields of the config, for TensorBoard's table of hyperparameters.
      split: the split whose accuracy and loss the table shows.
    """

    def __init__(self, folder: Path, step: int, config: Json, split: str):
        self._folder, self._step, self._config, self._split = folder, step, config, split
        self._writers: dict[str, EventsWriter] = {}
        self._given_up = False

    def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Appends scalars by name; on failure, logs a warning and stops writing."""
        with _without_torch():
            from tensorboardX.summary import scalar

        if scalars:
            self._append(step, split, [scalar(name, value) for name, value in scalars.items()])

    def write_images(self, step: int, split: str, images: Mapping[str, np.ndarray]) -> None:
        """Appends uint8 images `[height, width, 1 or 3]` by name; otherwise like `write`."""
        with _without_torch():
            from tensorboardX.summary import image

        summaries = [image('image', pixels, dataformats='HWC') for pixels in images.values()]
        for summary, name in zip(summaries, images, strict=True):
            summary.value[0].tag = printable(name)  # set here, because tensorboardX would replace spaces
        self._append(step, split, summaries)

    def _append(self, step: int, split: str, summaries: list['Summary']) -> None:
        if self._given_up:
            return
        from tensorboardX.proto.event_pb2 import Event

        with self._or_give_up():
            if not self._writers:
                self._write_hparams()
            writer = self._open(split)
            for summary in summaries:
                writer.write_event(Event(summary=summary, step=step, wall_time=time.time()))
            writer.flush()

    def _open(self, split: str) -> 'EventsWriter':
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if split not in self._writers:
            folder = self._folder / split
            folder.mkdir(parents=True, exist_ok=True)
            # Each start needs its own file name: tensorboardX would overwrite a file that was started in the same second.
            writer = self._writers[split] = EventsWriter(str(folder / 'events'), f'.{os.getpid()}.{self._step}')
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(session_log=start, step=self._step + 1, wall_time=time.time()))
        return self._writers[split]

    def _write_hparams(self) -> None:
        from tensorboardX.proto.api_pb2 import MetricInfo, MetricName
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
        from tensorboardX.summary import hparams

        texts = {k: printable(v) for k, v in self._config.items() if isinstance(v, str)}  # a path may not be UTF-8
        others = {k: v if isinstance(v, bool | int | float) else json.dumps(v) for k, v in self._config.items()}
        simple = others | texts
        experiment, session, _ = hparams(simple, {})
        plugin = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        # tensorboardX supports only metrics in the folder of the session itself.
        names = [MetricName(group=self._split, tag=tag) for tag in ('accuracy', 'loss')]
        content.experiment.metric_infos.extend(MetricInfo(name=name) for name in names)
        plugin.content = content.SerializeToString()
        for summary in (experiment, session):
            self._open('').write_event(Event(summary=summary, wall_time=time.time()))
        self._open('').flush()

    @contextlib.contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning('No more is written for TensorBoard: %s', error.strerror or error)
            self._given_up = True
            self.close()

    def close(self) -> None:
        """Closes the files; ignores errors, because a full disk must not hide the error that ended the run."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            with contextlib.suppress(OSError):
                writer.close()
