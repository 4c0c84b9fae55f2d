import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from sampling import sample

from resnet_jax.errors import Interrupted
from resnet_jax.runtime.signals import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before, threads = handlers(), threading.active_count()
    with StopSignal(math.inf) as stopped:
        assert stopped.number is None
        stopped.unsaved = True
        os.kill(os.getpid(), number)
        assert stopped.number == number
    assert handlers() == before and threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize('number', SIGNALS)
def test_with_nothing_to_save_it_raises(number):
    before = handlers()
    with pytest.raises(Interrupted) as info, StopSignal(math.inf):
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert info.value.number == number and handlers() == before


def test_handlers_come_back_after_an_exception():
    before = handlers()
    with pytest.raises(KeyError), StopSignal(math.inf):
        assert handlers() != before
        raise KeyError
    assert handlers() == before


def test_another_thread_installs_none():
    before, seen = handlers(), []

    def run():
        with StopSignal(math.inf) as stopped:
            seen.append((handlers(), stopped.number))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


# A call into C that gives the GIL away and is not broken off by a signal, as XLA's compiler does: a mutex locked twice.
STUCK = """
import ctypes, sys
from resnet_jax.errors import Interrupted
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.signals import StopSignal
def stay(*_):
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    while True:
        try:
            print('ready', flush=True)
            library.pthread_mutex_lock(mutex)
        except Interrupted:  # the signal came before the lock
            pass
with StopSignal(float(sys.argv[1])) as stopped:
    stopped.unsaved = sys.argv[2] == 'unsaved'
    write_atomically(sys.argv[3], stay) if sys.argv[3:] else stay()
"""


def stuck(grace, state, *path):
    arguments = [sys.executable, '-c', STUCK, str(grace), state, *path]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize('number', sample(SIGNALS, 2))
def test_a_main_thread_that_xla_holds_does_not_keep_the_process(number):
    process = stuck(0.5, 'saved')
    process.send_signal(number)
    _, err = process.communicate(timeout=120)  # the mutex is never released
    assert process.returncode == 128 + number
    assert 'nothing is lost' in err and 'Traceback' not in err


@pytest.mark.parametrize('number', sample(SIGNALS, 2))
def test_a_second_signal_ends_it_at_once_even_then(number):
    process = stuck(0.5, 'unsaved')
    process.send_signal(number)
    time.sleep(2)
    assert process.poll() is None  # there is something to save
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert 'the state is saved' in err and 'Stopped at once' in err


def test_a_file_that_is_being_written_when_it_ends_the_process_is_deleted(tmp_path):
    process = stuck(0.2, 'saved', str(tmp_path / 'plot.png'))
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and not list(tmp_path.iterdir())


DROPPED = """
import gc, signal
from resnet_jax.runtime import signals
with signals.StopSignal(5.0):  # as the commands have it
    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGTERM))
    gc.collect()
    print('went on')
"""


def test_a_signal_in_a_callback_whose_exceptions_python_drops_ends_the_process():
    done = subprocess.run([sys.executable, '-c', DROPPED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, ''), done.stderr
    assert 'Traceback' not in done.stderr and done.stderr.rstrip().endswith('The next start continues.')


def test_to_a_caller_of_the_library_it_comes_again():
    callbacks = list(gc.callbacks)
    with pytest.raises(Interrupted) as info, StopSignal(math.inf):
        gc.callbacks.append(lambda *_: gc.callbacks.pop() and signal.raise_signal(signal.SIGTERM))
        try:
            gc.collect()
        finally:
            gc.callbacks[:] = callbacks
        for _ in range(600):
            time.sleep(0.1)
    assert info.value.number == signal.SIGTERM and info.type.__name__ == 'Interrupted'


CALLER = """
import sys
from resnet_jax import default_config, train_and_evaluate

config = default_config()
config.update(dataset='synthetic_digits', model='resnet8', batch_size=128, crop_padding=0, num_epochs=1, warmup_epochs=0.0)
config.model_kwargs = {'num_filters': 4}
try:
    train_and_evaluate(config, sys.argv[1])
except KeyboardInterrupt as error:
    print('caught', error.number, flush=True)
"""


@pytest.mark.parametrize(
    'place', sample(['compile:1:int@0.3', 'compile:1:int@0.8', 'compile:1:term@1.3', 'evaluation:1:int@0.01'], 4)
)
def test_a_caller_that_catches_it_goes_on_and_ends_in_peace(place, tmp_path):
    """While XLA compiles, whose threads would go on, and end the process with a segmentation fault."""
    environment = {**os.environ, 'RESNET_JAX_FAILPOINT': place, 'JAX_ENABLE_COMPILATION_CACHE': '0', 'JAX_NUM_CPU_DEVICES': '1'}
    command = [sys.executable, '-c', CALLER, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    number = signal.SIGTERM if 'term' in place else signal.SIGINT
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f'caught {number:d}'), done.stderr
    assert 'Traceback' not in done.stderr
