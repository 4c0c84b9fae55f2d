import re
import sys

import pytest

from resnet_jax.runtime import progress as progress_module
from resnet_jax.runtime.progress import progress


def test_plain_lines_with_rate_and_time_left(capsys, monkeypatch):
    clock = iter(range(0, 1000, 2))  # seconds
    monkeypatch.setattr(progress_module.time, 'monotonic', lambda: next(clock))
    monkeypatch.setattr(progress_module, 'SECONDS_PER_LINE', 0)
    with progress('Reading', 3_000_000, 'MB') as advance:
        advance(1_000_000)
        advance(2_000_000)
    out, err = capsys.readouterr()
    assert out == ''
    first, second, last = err.splitlines()
    assert re.fullmatch(r'Reading: 1 of 3 MB, 0\.\d\d MB/s, \d+ s left', first)
    assert re.fullmatch(r'Reading: 3 of 3 MB, 0\.\d\d MB/s, 0 s left', second) and last == 'Reading: 3 of 3 MB'


@pytest.mark.parametrize('rate, left', [(1_000_000, '90 s'), (100_000, '15 min')])
def test_the_rate_is_of_what_came_since_and_not_of_what_was_there(rate, left, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress_module.time, 'monotonic', lambda: now)
    measured = progress_module._Rate(100_000_000, 10_000_000 - 2 * rate)
    assert measured.describe(10_000_000 - 2 * rate) == ''
    now = 2.0
    assert measured.describe(10_000_000) == f', {rate / 1e6:.2f} MB/s, {left} left'


def test_short_work_says_one_line(capsys):
    with progress('Reading', 1000, 'images') as advance:
        for _ in range(1000):
            advance(1)
    assert capsys.readouterr().err == 'Reading: 1,000 of 1,000 images\n'


def test_failed_work_does_not_claim_the_end(capsys):
    with pytest.raises(KeyError), progress('Reading', 2, 'images') as advance:
        advance(1)
        raise KeyError
    assert capsys.readouterr().err == ''


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    with progress('Reading', 1000, 'images') as advance:
        advance(1000)
    out, err = capsys.readouterr()
    assert out == '' and '1,000 of 1,000 images' in err
