"""Stopping a run that a person or a scheduler interrupts."""

import os
import signal
import threading
from typing import Any


class StopSignal:
    """While entered, SIGINT, SIGTERM and SIGHUP are noted instead of obeyed; a second one is obeyed.

    Only in the main thread: elsewhere Python allows no handler. Among several processes it is for `processes.agree_to_stop`
    to tell the others.

    Attributes:
      number: the signal that came, or None.
    """

    def __init__(self):
        self.number: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> 'StopSignal':
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was JAX's, in C

    def _note(self, number: int, _frame: Any) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        # Not print or a logger: the signal may have come in the middle of one.
        os.write(2, b'Stopping after this dispatch; the state is saved. Interrupt again to stop at once.\n')
