import os
import signal
import threading

import pytest

from resnet_jax.training import stop
from resnet_jax.training.stop import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = handlers()
    with StopSignal() as stopped:
        assert stopped.number is None
        os.kill(os.getpid(), number)
        assert stopped.number == number
    assert handlers() == before


def test_handlers_come_back_after_an_exception():
    before = handlers()
    with pytest.raises(KeyError), StopSignal():
        assert handlers() != before
        raise KeyError
    assert handlers() == before


def test_a_second_signal_is_obeyed(monkeypatch):
    killed = []
    with StopSignal() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(stop.os, 'kill', lambda *args: killed.append((*args, signal.getsignal(signal.SIGINT))))
        signal.raise_signal(signal.SIGINT)
    assert stopped.number is not None
    assert killed == [(os.getpid(), signal.SIGINT, signal.SIG_DFL)]


def test_another_thread_installs_none():
    before, seen = handlers(), []

    def run():
        with StopSignal() as stopped:
            seen.append((handlers(), stopped.number))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
