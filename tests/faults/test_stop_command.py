"""SIGTERM and Ctrl-C: the run ends and no completed step is lost; twice: the process ends at once."""

import signal
import subprocess
import time

import pytest
from faults_support import TINY, assert_same_outcome, command, outcome, steps, temporary_files, train

NAMES = {signal.SIGTERM: 'term', signal.SIGINT: 'int', signal.SIGHUP: 'hup'}  # in a failpoint
PLACES = {  # where the signal comes, and whether a step has been done
    'training': ('step:15', True),
    'dispatch': ('dispatch:3', True),
    'evaluation': ('evaluation:3', True),
    'checkpoint': ('arrays:2', True),
    'start': ('start:1', False),
    'compile': ('compile:1', False),
}


def stop(workdir, point, **environment):
    """Runs the command until the failpoint's signal ends it; returns the exit code and standard error."""
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=f'step:*:mark,{point}', **environment)
    process = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = ''
    for line in process.stderr:
        seen += line
        if line.startswith('failpoint ') and not line.endswith(': mark\n'):
            break
    seen += process.stderr.read()
    process.wait(timeout=300)
    return process.returncode, seen


@pytest.mark.parametrize(
    ('place', 'number'),
    [
        pytest.param(place, number, marks=[] if (place, number) == ('evaluation', signal.SIGTERM) else pytest.mark.slow)
        for place in PLACES
        for number in NAMES
    ],
)
def test_a_signal_saves_what_is_done_and_ends_the_run(place, number, expected, tmp_path):
    workdir, (point, some) = tmp_path / 'run', PLACES[place]
    code, err = stop(workdir, f'{point}:{NAMES[number]}')
    assert code == 128 + number, (code, err)
    assert 'Traceback' not in err and err.rstrip().endswith('The next start continues.')
    done = err.count('failpoint step: mark\n')
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
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number, err
    assert 'Traceback' not in err and not steps(tmp_path / 'run')


def stuck(workdir, place):
    """Starts a run and returns it when it has gone into C at a place, to stay there."""
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=f'{place}:stuck')
    process = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == f'failpoint {place.split(":")[0]}: stuck\n'
    time.sleep(0.3)
    return process


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_compiler_that_does_not_come_back_does_not_keep_the_process(number, tmp_path):
    process = stuck(tmp_path / 'run', 'compile:1')
    before = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number and time.monotonic() - before > 3, err
    assert 'Traceback' not in err and err.rstrip().endswith('The next start continues.')


@pytest.mark.slow
@pytest.mark.parametrize('place', ['compile:1', 'step:15', 'evaluation:3', 'save:2'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number, place, expected, tmp_path):
    process = stuck(tmp_path / 'run', place)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number, err
    assert 'Traceback' not in err and err.rstrip().endswith('Stopped at once.')
    train(tmp_path / 'run')
    assert_same_outcome(outcome(tmp_path / 'run'), expected)
    assert temporary_files(tmp_path / 'run') == []
