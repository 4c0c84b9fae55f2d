"""Ends all processes of a run when one of them is lost.

A process that the other processes wait for can be lost in three ways:

- It dies, is stopped or loses its network: JAX's runtime misses its heartbeats and ends the other processes with abort();
  `_last_words` turns this into an `error:` line and exit code 75.
- It fails with an error: it writes the message to the key-value store of JAX's coordination service; the other processes read
  the store once a second.
- It is alive but stuck: if no collective has finished for `watchdog_seconds`, every process writes the stacks of its threads
  and exits.

In each case a process exits with os._exit, because JAX's own shutdown waits for all other processes.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # no public module has the key-value store

from resnet_jax.errors import Interrupted, LostPeerError, is_out_of_memory
from resnet_jax.runtime.streams import tell_at_once

HEARTBEAT_SECONDS = 10  # after this time without a heartbeat, JAX considers a process lost
_LATE_SECONDS = 5  # after this time without a mark, a process is reported as lost
_GRACE_SECONDS = 3  # time in which a process may raise the same error by itself
_COMMUNICATION = ('gloo', 'nccl', 'rccl', 'coordination service', 'socket closed')  # words in the errors of collectives

_runs = itertools.count()  # runs of this program: each has different keys in the store
_watchdog: 'Watchdog | None' = None  # watchdog of this process's current run
_joining = ''  # message if JAX aborts before there is a watchdog


def store() -> Any:
    """Returns JAX's client of the key-value store that all processes share."""
    return distributed.global_state.client


class Watchdog(threading.Thread):
    """Checks the other processes once a second, and ends this process if one is lost.

    Attributes:
      waiting: number of times that this process has begun to wait for the other processes.
      moved: monotonic time at which such a wait last ended.
      code: the exit code, once this process is about to exit.
      keys: prefix of this run's keys in the store.
    """

    def __init__(self, workdir: Path, limit: float, resumes_from: Callable[[], Path | None]):
        super().__init__(name='watchdog', daemon=True)
        global _watchdog
        _watchdog = self
        self._rank, self._count = jax.process_index(), jax.process_count()
        self.keys = f'resnet_jax/{next(_runs)}/'
        self._workdir, self._limit, self._resumes_from = workdir, limit, resumes_from
        self.waiting, self.moved = 0, time.monotonic()
        self.code: int | None = None
        self._answered = time.monotonic()  # when the store last answered
        # For each process: its latest mark, 'ticks waiting', and when it first appeared.
        self._marks = {rank: ('0 0', time.monotonic()) for rank in range(self._count)}
        self._ended = threading.Event()
        catch_abort()

    def run(self) -> None:
        """Watches once a second until `stop`."""
        ticks = 0
        while not self._ended.wait(1):
            ticks += 1
            # Ends the process if this thread stops running: another thread holds the GIL, or the file system hangs.
            faulthandler.dump_traceback_later(self._limit + 60, exit=True)
            failure = None
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has exited: JAX is about to end this process
                failure = self._look(ticks)
            if failure and not self._ended.wait(_GRACE_SECONDS):
                self._give_up(failure)
            if time.monotonic() - self.moved > self._limit and not self._ended.is_set():
                self._give_up(self._stuck())
        faulthandler.cancel_dump_traceback_later()

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self.is_alive():
            self.join(5)  # with a timeout, because the store may hang

    def _look(self, ticks: int) -> str | None:
        """Writes this process's mark and reads those of the others; returns the error of a failed process, or None."""
        store().key_value_set(f'{self.keys}mark/{self._rank}', f'{ticks} {self.waiting}', allow_overwrite=True)
        now = time.monotonic()
        for rank, mark in self._read('mark'):
            if self._marks[rank][0] != mark:
                self._marks[rank] = (mark, now)
        self._answered = now
        failed = [f'process {rank} has failed: {message}' for rank, message in self._read('failed') if rank != self._rank]
        return failed[0] if failed else None

    def _read(self, kind: str) -> list[tuple[int, str]]:
        """Returns (rank, value) for each process that has written a value of this kind to the store."""
        return [(int(key.rpartition('/')[2]), value) for key, value in store().key_value_dir_get(f'{self.keys}{kind}/')]

    def _lost(self) -> str | None:
        """Returns a message that names the processes without recent marks, or None if there are none."""
        now = time.monotonic()
        if self._rank and (now - self._answered > _LATE_SECONDS or not _coordinator_reachable()):
            return 'process 0 was lost'
        late = sorted(rank for rank, (_, since) in self._marks.items() if now - since > _LATE_SECONDS and rank != self._rank)
        return f'process {", ".join(map(str, late))} was lost' if late else None

    def _reason(self) -> str | None:
        if lost := self._lost():
            return f'{lost}: killed, stopped or cut off from the network'
        if not threading.current_thread().name.startswith('Dummy'):
            return None  # Python called the code that aborts; it is not a thread of JAX's runtime
        return (
            'JAX ended the run for the reason above; if it speaks of another incarnation, a process with the process_id of '
            'one of these has been started'
        )

    def _stuck(self) -> str:
        """Writes the stacks of all threads; returns a message with the name of the process that the others wait for."""
        waiting = {rank: int(mark.split()[1]) for rank, (mark, _) in self._marks.items()}
        waiting[self._rank] = self.waiting
        behind = sorted(rank for rank in waiting if waiting[rank] < max(waiting.values()))
        who = f'process {", ".join(map(str, behind))} is stuck' if behind else 'all processes are stuck'
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            self._write(f'Thread {names.get(ident, ident)}:\n{"".join(traceback.format_stack(frame))}')
        return f'{who}: no step and no batch for {self._limit:g} s (config.watchdog_seconds), stacks of all threads above'

    def _write(self, text: str) -> None:
        """Writes to standard error and run.log; not with a logger, because a stuck thread may hold its lock."""
        tell_at_once(f'{text}\n'.encode(errors='backslashreplace'))
        with contextlib.suppress(OSError), (self._workdir / 'run.log').open('a') as log:
            log.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} process {self._rank}: {text}\n')

    def _give_up(self, reason: str) -> None:
        self.code = LostPeerError.exit_code if self.code is None else self.code
        self._write(f'error: {reason}; {self._advice()}')
        if self._rank == 0:
            time.sleep(_GRACE_SECONDS)  # the store ends with this process: let the others read it first
        os._exit(self.code)

    def last_words(self) -> None:
        """Ends this process, which JAX is about to abort; returns if the abort is not caused by the other processes."""
        if self.code is None and (reason := self._reason()):
            self.code = LostPeerError.exit_code
            self._write(f'error: {reason}; {self._advice()}')
        if self.code is not None:  # set above, or already exiting
            os._exit(self.code)

    def _advice(self) -> str:
        path = self._resumes_from()
        where = f'from {path}' if path else 'from the beginning: no checkpoint yet'
        return f'start all processes again, which continues {where}'

    def fail(self, error: BaseException) -> BaseException:
        """Tells the other processes that this process exits with an error, and sets `code`; returns the error to raise."""
        text = ' '.join(str(error).split()) or type(error).__name__
        if not hasattr(error, 'exit_code') and any(word in text.lower() for word in _COMMUNICATION):
            # A peer has closed the connection. If the peer died, JAX ends this process; if it failed, `run` does.
            time.sleep(HEARTBEAT_SECONDS + 3)
            error = LostPeerError(f'the connection to the other processes broke: {text[:200]}; {self._advice()}')
        self.code = exit_code(error)
        self._ended.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            store().key_value_set(f'{self.keys}failed/{self._rank}', text)
        return error


def _coordinator_reachable() -> bool:
    host, _, port = (distributed.global_state.coordinator_address or '').rpartition(':')
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def exit_code(error: BaseException) -> int:
    """Returns the exit code with which the command will end."""
    if isinstance(error, Interrupted):
        return 128 + error.number
    if is_out_of_memory(error):
        return 5
    return getattr(error, 'exit_code', 130 if isinstance(error, KeyboardInterrupt) else 1)


def leave_at_exit(code: int) -> None:
    """Makes this process flush its output at exit and end without waiting for the other processes, as JAX would."""

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):
                stream.flush()
        if jax.process_index() == 0:
            time.sleep(_GRACE_SECONDS + 2)  # the store ends with this process: let the others read it first
        os._exit(code)

    atexit.register(leave)  # the handler registered last runs first


def catch_abort(joining: str = '') -> None:
    """Makes `_last_words` run when JAX aborts this process.

    JAX accepts a callback instead of the abort, but jaxlib 0.10 cannot pass the reason to Python and aborts anyway. Python's
    own signal handlers do not run inside abort(). A C function does, and it may wait for the GIL, because the thread itself
    calls abort() and is not interrupted in the middle of other work.

    Args:
      joining: message if JAX aborts before there is a `Watchdog`.
    """
    global _joining
    _joining = joining
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_last_words, ctypes.c_void_p))


@ctypes.CFUNCTYPE(None, ctypes.c_int)  # type: ignore[untyped-decorator]
def _last_words(_number: int) -> None:
    if _watchdog:
        _watchdog.last_words()
    elif _joining:
        tell_at_once(f'error: {_joining}\n'.encode(errors='backslashreplace'))
        os._exit(LostPeerError.exit_code)
    # Returning lets abort() continue.
