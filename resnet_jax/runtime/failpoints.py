"""Places where a test makes something go wrong: RESNET_JAX_FAILPOINT=PLACE:COUNT:ACTION, several with commas between.

Unset, as it is outside tests, a place costs one look into an empty dict. The action is taken the COUNT-th time that the
place is passed, or with '*' every time:

    kill, term, int, hup, stop    the process sends itself that signal; 'kill@0.05' does so 0.05 seconds later
    EIO, ENOSPC, ...         OSError with that number
    memory                   what JAX raises when a device's memory is full
    nan                      `reach` returns True, and the caller makes its number NaN
    stuck                    this thread stays in C for good, as it does in XLA for long, and Python gets to no signal
    mark                     nothing but the line on standard error that every action writes
"""

import ctypes
import errno
import os
import signal
import threading

_SIGNALS = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'int': signal.SIGINT, 'hup': signal.SIGHUP, 'stop': signal.SIGSTOP}


def _parse(text: str) -> dict[str, list[list[str]]]:
    points: dict[str, list[list[str]]] = {}
    for entry in filter(None, text.split(',')):
        place, count, action = entry.split(':')
        points.setdefault(place, []).append([count, action])
    return points


_points = _parse(os.environ.get('RESNET_JAX_FAILPOINT', ''))
_passed: dict[str, int] = {}


def reach(place: str) -> bool:
    """Takes the actions set for a place; returns whether one of them is 'nan'."""
    if place not in _points:
        return False
    _passed[place] = _passed.get(place, 0) + 1
    actions = [action for count, action in _points[place] if count in ('*', str(_passed[place]))]
    for action in actions:
        _act(place, action)
    return 'nan' in actions


def traced_at(place: str) -> int | None:
    """Returns the COUNT of a place inside a compiled program, where it is a step; None if unset. One trace only gets it."""
    return int(_points.pop(place)[0][0]) if place in _points else None


def _act(place: str, action: str) -> None:
    os.write(2, f'failpoint {place}: {action}\n'.encode())
    name, _, delay = action.partition('@')
    if name in _SIGNALS and delay:
        timer = threading.Timer(float(delay), os.kill, (os.getpid(), _SIGNALS[name]))
        timer.daemon = True
        timer.start()
    elif name in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[name])
    elif name == 'memory':
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory, says a failpoint.')
    elif name == 'stuck':
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # of zeros, as a mutex begins on Linux
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
    elif name not in ('nan', 'mark'):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
