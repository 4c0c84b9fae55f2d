"""SIGKILL anywhere: the same command again ends in the same bits."""

import signal
import subprocess

import pytest
from faults_support import PER_EPOCH, TINY, assert_same_outcome, command, outcome, rows, steps, temporary_files, train

# By phase. 'place:n' is the n-th time that the run passes there; '@' is a delay in seconds.
KILLS = {
    'start': ('start:1:kill', 'start:1:kill@0.2'),
    'compile': ('compile:1:kill', 'compile:1:kill@0.1', 'compiled:1:kill'),
    'mid-epoch': ('step:5:kill', 'dispatch:3:kill@0.002', 'step:27:kill'),
    'epoch end': ('epoch:1:kill', 'epoch:3:kill'),
    'evaluation': ('evaluation:1:kill', 'evaluation:5:kill'),
    'writing a checkpoint': ('save:2:kill', 'save:3:kill@0.01', 'arrays:1:kill', 'written:4:kill'),
    'after a checkpoint': ('renamed:1:kill', 'saved:3:kill', 'saved:4:kill'),
    'clean-up': ('delete:1:kill', 'delete:2:kill', 'result:1:kill', 'report:1:kill'),
}
POINTS = [(phase, point) for phase, points in KILLS.items() for point in points]
QUICK = ('step:27:kill', 'arrays:1:kill')


def kill(workdir, point):
    """Runs the command until the failpoint ends it."""
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=point)
    done = subprocess.run(**options, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, f'{point} was not reached\n{done.stdout}\n{done.stderr}'


def recover(workdir, expected):
    done = rows(workdir)[-1]['step'] if rows(workdir) else 0
    again = train(workdir)
    start = [int(line.split()[-1].rstrip('.')) for line in again.stdout.splitlines() if line.startswith('Continuing ')]
    if 'is finished' not in again.stdout:
        assert done - (start[0] if start else 0) <= PER_EPOCH, 'more than one checkpoint interval is repeated'
    assert_same_outcome(outcome(workdir), expected)
    assert temporary_files(workdir) == []
    assert (workdir / 'report.html').exists() and (workdir / 'predictions.npz').exists()


def test_there_are_enough_of_them():
    assert len(POINTS) >= 20 and all(len(points) >= 2 for points in KILLS.values())


@pytest.mark.parametrize(
    ('phase', 'point'), [pytest.param(*p, marks=[] if p[1] in QUICK else pytest.mark.slow) for p in POINTS]
)
def test_a_killed_run_ends_as_if_it_had_not_been(phase, point, expected, tmp_path):
    kill(tmp_path / 'run', point)
    recover(tmp_path / 'run', expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('first', 'second'),
    [
        ('step:15:kill', 'restore:1:kill'),
        ('arrays:2:kill', 'compile:1:kill'),
        ('delete:1:kill', 'start:1:kill'),
        ('saved:2:kill', 'save:1:kill'),
        ('written:3:kill', 'saved:1:kill'),
    ],
)
def test_killed_again_while_it_recovers(first, second, expected, tmp_path):
    kill(tmp_path / 'run', first)
    kill(tmp_path / 'run', second)
    recover(tmp_path / 'run', expected)


@pytest.mark.slow
@pytest.mark.parametrize('point', ['swap:1:kill', 'renamed:1:kill'])
def test_killed_while_a_checkpoint_replaces_the_one_of_the_same_step(point, expected, tmp_path):
    """A stop during the evaluation saves the epoch's end without it; the next start saves it again, with it."""
    workdir = tmp_path / 'run'
    train(workdir, failpoint='evaluation:1:term', code=143)
    assert steps(workdir) == [PER_EPOCH]
    kill(workdir, point)
    again = train(workdir)
    assert f'after iteration {PER_EPOCH}' in again.stdout
    assert_same_outcome(outcome(workdir), expected)
    assert temporary_files(workdir) == []
