"""SIGTERM and Ctrl-C: out in ten seconds, no completed step lost; twice: out in one."""

import signal
import subprocess
import time

import pytest
from faults_support import TINY, assert_same_outcome, command, outcome, rows, steps, temporary_files, train

PLACES = {  # where the signal comes, and whether a step has been done
    'training': ('step:15', True),
    'dispatch': ('dispatch:3', True),
    'evaluation': ('evaluation:3', True),
    'checkpoint': ('arrays:2', True),
    'start': ('start:1', False),
    'compile': ('compile:1', False),
}


def stop(workdir, point, **environment):
    """Runs the command until the failpoint's signal ends it; returns the process, its output and the seconds it took."""
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=point, **environment)
    process = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = ''
    for line in process.stderr:
        seen += line
        if line.startswith('failpoint '):
            break
    before = time.monotonic()
    seen += process.stderr.read()
    process.wait(timeout=60)
    return process.returncode, seen, time.monotonic() - before


@pytest.mark.parametrize(
    ('place', 'number'),
    [
        pytest.param(place, number, marks=[] if (place, number) == ('evaluation', signal.SIGTERM) else pytest.mark.slow)
        for place in PLACES
        for number in (signal.SIGTERM, signal.SIGINT)
    ],
)
def test_a_signal_saves_what_is_done_and_ends_the_run(place, number, expected, tmp_path):
    workdir, (point, some) = tmp_path / 'run', PLACES[place]
    code, err, seconds = stop(workdir, f'{point}:{"term" if number == signal.SIGTERM else "int"}')
    assert code == 128 + number and seconds < 10, (code, seconds, err)
    assert 'Traceback' not in err and err.rstrip().endswith('The same command continues.')
    done = rows(workdir)[-1]['step'] if rows(workdir) else 0
    saved = steps(workdir)[-1] if steps(workdir) else 0
    assert saved >= done and (saved > 0) == some and not (workdir / 'result.json').exists()
    assert temporary_files(workdir) == []
    again = train(workdir)
    assert not some or f'after iteration {saved}' in again.stdout
    assert_same_outcome(outcome(workdir), expected)


def compiling(workdir, flags=()):
    """Starts a run of a network that takes some seconds to compile, and returns it in the midst of that."""
    big = ['--config.model=resnet56', '--config.model_kwargs.num_filters=16', '--config.model_kwargs.stage_sizes=9,9,9']
    options = command('train.py', *TINY, *big, *flags, f'--workdir={workdir}', JAX_ENABLE_COMPILATION_CACHE='false')
    process = subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if 'parameters' in line:  # what comes next is the compilation
            break
    time.sleep(2)
    return process


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_long_compilation_does_not_keep_the_process(number, tmp_path):
    process = compiling(tmp_path / 'run')
    before = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and time.monotonic() - before < 10, err
    assert 'Traceback' not in err and not steps(tmp_path / 'run')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number, tmp_path):
    process = compiling(tmp_path / 'run')
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None, 'it was not stuck in the compiler: the test shows nothing'
    before = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=60)
    assert process.returncode == 128 + number and time.monotonic() - before < 1
    assert 'Traceback' not in process.communicate()[1]
