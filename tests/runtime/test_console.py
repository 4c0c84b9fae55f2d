import io
import logging
import sys

import pytest

from resnet_jax.runtime import console, dispatch, distributed


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def package():
    """The package's logger, as it was before afterwards."""
    logger = logging.getLogger('resnet_jax')
    before = list(logger.handlers), logger.level, logger.propagate
    logger.handlers = []
    yield logger
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.parametrize(
    ('seconds', 'expected'),
    [
        (0, '0:00:00'),
        (4.4, '0:00:04'),
        (59.6, '0:01:00'),
        (271, '0:04:31'),
        (3600, '1:00:00'),
        (86_399, '23:59:59'),
        (86_400, '1 day 00:00:00'),
        (3 * 86_400 + 7800, '3 days 02:10:00'),
    ],
)
def test_duration(seconds, expected):
    assert console.duration(seconds) == expected


def test_messages_are_printed_once_however_often_it_is_asked_for(package, capsys):
    for _ in range(3):
        console.log_to_console()
    logging.getLogger('resnet_jax.training').info('Iteration %d', 250)
    logging.getLogger('resnet_jax.training').debug('no')
    captured = capsys.readouterr()
    assert captured.out == 'Iteration 250\n' and captured.err == ''


def test_messages_may_go_to_stderr(package, capsys):
    console.log_to_console('stderr')
    logging.getLogger('resnet_jax.training').warning('careful')
    captured = capsys.readouterr()
    assert captured.err == 'careful\n' and captured.out == ''


def test_the_bar_shows_progress_and_status_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    monkeypatch.setenv('COLUMNS', '120')
    monkeypatch.setenv('TERM', 'xterm')
    with console.ProgressBar(1560, 'resnet8') as bar:
        bar.update(390, 'loss 1.234  52 images/s  0:01:00 left')
    shown = terminal.getvalue()
    assert 'resnet8' in shown and '390/1560' in shown and 'loss 1.234  52 images/s  0:01:00 left' in shown


def test_messages_appear_above_the_bar(monkeypatch, package):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    console.log_to_console()
    with console.ProgressBar(4, 'resnet8') as bar:
        bar.update(2, 'half')
        logging.getLogger('resnet_jax.training').info('Iteration 2')
    lines = [line for line in terminal.getvalue().splitlines() if 'Iteration 2' in line]
    assert len(lines) == 1 and lines[0].strip('\r').endswith('Iteration 2')
    assert sys.stdout is terminal


def test_no_bar_elsewhere(capsys):
    with console.ProgressBar(4, 'resnet8') as bar:
        bar.update(2, 'half')
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err == ''


def test_pace_tries_one_step_then_half_a_second_of_them():
    pace = dispatch.Pace()
    assert pace.size(100) == 1
    pace.measured(1, 0.01)
    assert pace.per_step == pytest.approx(0.01)
    assert pace.size(100) == 50
    assert pace.size(7) == 7  # not beyond what remains
    pace.measured(50, 100.0)
    assert pace.size(100) == 1  # never none


def test_pace_follows_but_does_not_jump():
    pace = dispatch.Pace(seconds=1.0)
    pace.measured(10, 1.0)
    pace.measured(10, 2.0)
    assert pace.per_step == pytest.approx(0.8 * 0.1 + 0.2 * 0.2)


def test_pace_forgets_a_slow_first_dispatch_and_takes_a_fast_epoch_at_once():
    pace, sizes = dispatch.Pace(), []
    for _ in range(3):
        remaining = 97
        while remaining:
            sizes.append(pace.size(remaining))
            pace.measured(sizes[-1], 2.0 if len(sizes) == 1 else sizes[-1] * 0.0046)
            remaining -= sizes[-1]
    assert sizes == [1, 1, 95, 97, 97]


def test_pace_survives_a_clock_that_stands_still():
    pace = dispatch.Pace()
    pace.measured(5, 0.0)
    assert pace.size(3) == 3


def test_one_process_agrees_with_itself():
    assert distributed.broadcast(7) == 7
