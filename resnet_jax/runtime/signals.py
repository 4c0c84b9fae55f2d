"""Stops a run that a user or a scheduler interrupts."""

import contextlib
import ctypes
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import jax

from resnet_jax.errors import Interrupted
from resnet_jax.runtime.files import delete_own_unfinished
from resnet_jax.runtime.streams import tell_at_once

Handler = Callable[[int, FrameType | None], object] | int | None

_SAVED = b'Interrupted; the state is saved. The next start continues.\n'
_speaking = threading.Lock()  # the thread that ends the process never releases it, so nothing is written after its line


class StopSignal:
    """A context in which SIGINT, SIGTERM and SIGHUP stop the run cleanly, and a second signal ends the process at once.

    While `unsaved` is set, the signal is only recorded, and the run must save its state and raise `Interrupted`. Otherwise the
    signal handler raises `Interrupted` as soon as Python runs it. If this takes longer than `grace_seconds`, because XLA is
    compiling, the process ends without raising.

    Python runs signal handlers only in the main thread, and only when XLA returns to Python. Therefore another thread watches
    for signals; Python's own C handler wakes it through a pipe.

    Does nothing outside the main thread, where Python does not allow handlers. With several processes,
    `distributed.any_signal` must inform the other processes.

    Args:
      grace_seconds: infinite for a program that continues after the interrupted run.

    Attributes:
      number: number of the received signal, or None.
      unsaved: whether there are steps without a checkpoint.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self.number: int | None = None
        self.unsaved = False
        self._alone = jax.process_count() == 1  # several processes can only stop together
        self._old: dict[int, Handler] = {}
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()
        self._postponed = False  # Interrupted is still to be raised

    def __enter__(self) -> 'StopSignal':
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._thread = threading.Thread(target=self._watch, name='stop', daemon=True)
            self._thread.start()
            self._old_pipe = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._old_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup sets SIG_IGN
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: a C handler, JAX's
        if self._thread:
            sys.unraisablehook = self._old_hook
            signal.set_wakeup_fd(self._old_pipe)
            os.write(self._write, b'\0')
            self._thread.join()
            os.close(self._read)
            os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if not self._alone or self.unsaved:
            return
        if not frame or not frame.f_globals.get('__name__', '').startswith('jax'):
            raise Interrupted(self.number)
        # JAX allows a handler to raise while JAX waits for XLA. But the compilation would continue, and a program that catches
        # the exception and then exits would end with a segmentation fault.
        self._postponed = True

    def _unraisable(self, unraisable: 'sys.UnraisableHookArgs') -> None:
        """Re-raises an `Interrupted` that Python discarded."""
        if not isinstance(unraisable.exc_value, Interrupted):
            self._old_hook(unraisable)
        elif math.isfinite(self._grace_seconds):
            _end(unraisable.exc_value.number, _SAVED)
        else:
            self._postponed = True

    def _watch(self) -> None:
        deadline = None
        while True:
            ready, _, _ = select.select([self._read], [], [], None if deadline is None else 0.1)
            numbers = os.read(self._read, 64) if ready else b''
            if 0 in numbers:
                return
            for number in numbers:
                if number not in self._old:  # not our handler
                    continue
                if deadline is not None:
                    _end(number, b'Stopped at once.\n')
                self.number, deadline = self.number or number, time.monotonic() + self._grace_seconds
                # Not print or a logger: the main thread may hold their locks.
                note = b'after this dispatch; the state is saved' if self.unsaved else b'(nothing is lost)'
                with _speaking:
                    tell_at_once(b'Stopping ' + note + b'. Interrupt again to stop at once.\n')
            if self._postponed and self.number:
                self._postponed = False
                _raise_in(self._main, self.number)
            late = deadline is not None and time.monotonic() > deadline
            if late and self.number and self._alone and not self.unsaved:
                _end(self.number, _SAVED)


def _raise_in(thread: int, number: int) -> None:
    """Raises Interrupted asynchronously in another thread."""
    kind = type('Interrupted', (Interrupted,), {'__init__': lambda self: Interrupted.__init__(self, number)})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _end(number: int, message: bytes) -> None:
    _speaking.acquire()
    if os.isatty(1):
        with contextlib.suppress(OSError):
            os.write(1, b'\x1b[?25h\n')  # shows the cursor, which the progress bar hides
    tell_at_once(message)
    delete_own_unfinished()  # on a busy machine the main thread may need seconds to finish a plot
    os._exit(128 + number)
