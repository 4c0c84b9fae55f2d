"""A trace of some iterations, for XProf or Perfetto."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

_ITERATIONS = 10


class Profiler:
    """Traces some iterations after the first dispatch, one per dispatch, so that the trace shows each with its number.

    Args:
      folder: the folder of the trace; None for no trace.
    """

    def __init__(self, folder: Path | None):
        self._folder, self._left = folder, _ITERATIONS if folder else 0
        self._dispatched = self._tracing = False

    @property
    def alone(self) -> bool:
        """Whether the next dispatch must run a single iteration."""
        return self._left > 0

    @contextlib.contextmanager
    def iteration(self, step: int) -> Iterator[None]:
        """Marks one iteration in the trace.

        Args:
          step: the number of steps before this iteration.
        """
        if not self._left or not self._dispatched:  # the first dispatch includes one-time work
            self._dispatched = True
            yield
            return
        if not self._tracing:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
            yield
        self._left -= 1
        if not self._left:
            self.stop()

    def stop(self) -> None:
        """Writes the trace, if one has begun."""
        if not self._tracing:
            return
        self._tracing, self._left = False, 0
        jax.profiler.stop_trace()
        logger.info(
            'Trace in %s: its perfetto_trace.json.gz opens in ui.perfetto.dev, and xprof --logdir=%s shows all of it '
            '(after pip install xprof).',
            self._folder,
            self._folder,
        )
