"""Fault injection for tests: RESNET_JAX_FAILPOINT=PLACE:COUNT:ACTION, separated by commas.

If the variable is unset, passing a place costs one lookup in an empty dict. The action happens the COUNT-th time that the place
is passed, or every time if COUNT is '*':

    kill, term, int, hup, stop    the process sends itself this signal; 'kill@0.05' does so 0.05 seconds later
    EIO, ENOSPC, ...         raises OSError with this errno
    memory                   raises the error of JAX when a device's memory is full
    nan                      `reach` returns True, and the caller makes its number NaN
    stuck                    this thread blocks forever in C, as XLA does for a long time, so Python handles no signals
    mark                     only writes a line on standard error, like every action
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
    """Performs the actions set for a place; returns whether one of them is 'nan'."""
    if place not in _points:
        return False
    _passed[place] = _passed.get(place, 0) + 1
    actions = [action for count, action in _points[place] if count in ('*', str(_passed[place]))]
    for action in actions:
        _act(place, action)
    return 'nan' in actions


def traced_at(place: str) -> int | None:
    """Returns the COUNT, a step, of a place inside a compiled program; None if unset or if an earlier call returned it."""
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
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # zeros are an unlocked mutex on Linux
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
    elif name not in ('nan', 'mark'):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
