"""Stopping a run that a person or a scheduler interrupts."""

import logging
import os
import signal
import threading
from typing import Any

import jax

logger = logging.getLogger(__name__)


class StopSignal:
    """While entered, SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed.

    Only in the main thread of a single process: elsewhere Python allows no handler, and among several processes the signals
    belong to JAX's runtime.

    Attributes:
      number: the signal that came, or None.
    """

    def __init__(self):
        self.number: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> 'StopSignal':
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: Any) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        logger.info('Stopping after this dispatch; the state is saved. Interrupt again to stop at once.')
