import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.errors import Interrupted
from resnet_jax.runtime.signals import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before, threads = handlers(), threading.active_count()
    with StopSignal() as stopped:
        assert stopped.number is None
        stopped.unsaved = True
        os.kill(os.getpid(), number)
        assert stopped.number == number
    assert handlers() == before and threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize('number', SIGNALS)
def test_with_nothing_to_save_it_raises(number):
    before = handlers()
    with pytest.raises(Interrupted) as info, StopSignal():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert info.value.number == number and handlers() == before


def test_handlers_come_back_after_an_exception():
    before = handlers()
    with pytest.raises(KeyError), StopSignal():
        assert handlers() != before
        raise KeyError
    assert handlers() == before


def test_another_thread_installs_none():
    before, seen = handlers(), []

    def run():
        with StopSignal() as stopped:
            seen.append((handlers(), stopped.number))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


# A call into C that gives the GIL away and is not broken off by a signal, as XLA's compiler does: a mutex locked twice.
STUCK = """
import ctypes, sys
from resnet_jax.runtime import signals as stop
stop.GRACE_SECONDS = float(sys.argv[1])
with stop.StopSignal() as stopped:
    stopped.unsaved = sys.argv[2] == 'unsaved'
    print('ready', flush=True)
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""


def stuck(grace, state):
    process = subprocess.Popen(
        [sys.executable, '-c', STUCK, str(grace), state], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    time.sleep(0.3)
    return process


@pytest.mark.parametrize('number', SIGNALS)
def test_a_main_thread_that_xla_holds_does_not_keep_the_process(number):
    process = stuck(0.5, 'saved')
    process.send_signal(number)
    _, err = process.communicate(timeout=120)  # the mutex is never released
    assert process.returncode == 128 + number
    assert 'nothing is lost' in err and 'Traceback' not in err


@pytest.mark.parametrize('number', SIGNALS)
def test_a_second_signal_ends_it_at_once_even_then(number):
    process = stuck(0.5, 'unsaved')
    process.send_signal(number)
    time.sleep(2)
    assert process.poll() is None  # there is something to save
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert 'the state is saved' in err and 'Stopped at once' in err


DROPPED = """
import gc, signal
from resnet_jax.runtime.signals import StopSignal
with StopSignal():
    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGTERM))
    gc.collect()
    print('went on')
"""


def test_a_signal_in_a_callback_whose_exceptions_python_drops_ends_the_process():
    done = subprocess.run([sys.executable, '-c', DROPPED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, ''), done.stderr
    assert 'Traceback' not in done.stderr and done.stderr.rstrip().endswith('The same command continues.')
