"""SIGKILL anywhere: the same command again ends in the same bits."""

import signal
import subprocess

import pytest
from faults_support import PER_EPOCH, TINY, assert_same_outcome, command, outcome, rows, steps, temporary_files, train

# By phase: where, as 'place:n', the n-th time that the run passes there, '@' a delay in seconds; for a delay a place in the
# next phase, not to be reached; and the step that the run goes on from, where it does not depend on time.
KILLS = {
    'start': (('start:1:kill', None, 0), ('start:1:kill@0.05', 'compile:1', 0)),
    'compile': (('compile:1:kill', None, 0), ('compile:1:kill@0.1', 'compiled:1', 0), ('compiled:1:kill', None, 0)),
    'mid-epoch': (('step:5:kill', None, 0), ('dispatch:3:kill@0.002', 'epoch:4', None), ('step:27:kill', None, 20)),
    'epoch end': (('epoch:1:kill', None, 0), ('epoch:3:kill', None, 20)),
    'evaluation': (('evaluation:1:kill', None, 0), ('evaluation:5:kill', None, None)),
    'writing a checkpoint': (
        ('save:2:kill', None, 10),
        ('save:3:kill@0.01', 'renamed:3', 20),
        ('arrays:1:kill', None, 0),
        ('written:4:kill', None, 30),
    ),
    'after a checkpoint': (('renamed:1:kill', None, 10), ('saved:3:kill', None, 30), ('saved:4:kill', None, 40)),
    'clean-up': (
        ('delete:1:kill', None, None),
        ('delete:2:kill', None, None),
        ('result:1:kill', None, 40),
        ('report:1:kill', None, None),
    ),
}
POINTS = [(phase, *point) for phase, points in KILLS.items() for point in points]
QUICK = ('arrays:1:kill',)


def kill(workdir, point, too_late=None):
    """Runs the command until the failpoint ends it, before it gets to the place `too_late`."""
    points = f'{point},{too_late}:mark' if too_late else point
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=points)
    done = subprocess.run(**options, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, f'{point} was not reached\n{done.stdout}\n{done.stderr}'
    assert f'failpoint {point.split(":")[0]}: kill' in done.stderr
    assert not too_late or f'{too_late.split(":")[0]}: mark' not in done.stderr, f'{point} came only after {too_late}'


def recover(workdir, expected, step=None):
    """Runs the same command again, which goes on from `step` if one is given, and compares."""
    done = rows(workdir)[-1]['step'] if rows(workdir) else 0
    again = train(workdir)
    start = [int(line.split()[-1].rstrip('.')) for line in again.stdout.splitlines() if line.startswith('Continuing ')]
    if 'is finished' not in again.stdout:
        assert done - (start[0] if start else 0) <= PER_EPOCH, 'more than one checkpoint interval is repeated'
        assert step is None or (start or [0]) == [step]
    assert_same_outcome(outcome(workdir), expected)
    assert temporary_files(workdir) == []
    assert not list(workdir.rglob('*.damaged*')), 'what was being written looked like a whole checkpoint'
    assert (workdir / 'report.html').exists() and (workdir / 'predictions.npz').exists()


def test_there_are_enough_of_them():
    assert len(POINTS) >= 20 and all(len(points) >= 2 for points in KILLS.values())


@pytest.mark.parametrize(
    ('phase', 'point', 'too_late', 'step'),
    [pytest.param(*p, id=f'{p[0]}-{p[1]}', marks=[] if p[1] in QUICK else pytest.mark.slow) for p in POINTS],
)
def test_a_killed_run_ends_as_if_it_had_not_been(phase, point, too_late, step, expected, tmp_path):
    kill(tmp_path / 'run', point, too_late)
    recover(tmp_path / 'run', expected, step)


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
