"""One of two processes is killed, stopped or stuck: the other leaves in time, and starting both again ends as if nothing had
happened."""

import signal
import time
from pathlib import Path

import pytest
from pair import SHORT, Pair, assert_same_run, rows

from resnet_jax.training import checkpoint

pytestmark = pytest.mark.slow
LIMIT = 12  # seconds, of the watchdog


def lose(pair, rank, how, phase):
    """Kills or stops a process in a phase of the second epoch."""
    folder = pair.workdir / 'checkpoints'
    if phase == 'training':
        pair.until('Iteration 30 ')
    elif phase == 'evaluation':
        pair.until('Iteration 44 ')
    else:
        pair.until(lambda: (folder / '.partial-44').exists())
    pair.processes[rank].send_signal(how)
    evaluated = any(row['step'] == 44 and row['split'] == 'test' for row in rows(pair.workdir))
    assert evaluated == (phase == 'saving'), f'too late for {phase}'
    return time.monotonic()


@pytest.mark.parametrize('phase', ['training', 'evaluation', 'saving'])
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP], ids=['killed', 'stopped'])
@pytest.mark.parametrize('rank', [0, 1])
def test_the_survivor_leaves(undisturbed, tmp_path, rank, how, phase):
    workdir, other = tmp_path / 'run', 1 - rank
    pair = Pair(workdir, *SHORT)
    lost = lose(pair, rank, how, phase)
    assert pair.wait(30, [other]) == [75]
    seconds = time.monotonic() - lost
    print(f'process {rank} {how.name} in {phase}: the other left after {seconds:.1f} s')
    assert seconds < 15
    pair.kill()
    line = pair.error_line(other)
    newest = checkpoint.steps(workdir / 'checkpoints')[-1]
    assert f'process {rank} was lost' in line and f'continues from {workdir}/checkpoints/{newest}' in line

    again = Pair(workdir, *SHORT)
    assert again.wait() == [0, 0], again.errors
    assert_same_run(undisturbed, workdir)


@pytest.mark.parametrize(('rank', 'how'), [(0, 'python'), (1, 'python'), (1, 'lock')])
def test_all_leave_one_that_is_stuck(undisturbed, tmp_path, rank, how):
    workdir = tmp_path / 'run'
    stuck = [flag for flag in SHORT if not flag.startswith('--config=')]
    config = f'--config={Path(__file__).with_name("stuck.py")}'
    pair = Pair(workdir, config, *stuck, f'--config.watchdog_seconds={LIMIT}', STUCK=f'{rank} {how}')
    pair.until('Iteration 30 ')
    before = time.monotonic()
    assert pair.wait(LIMIT + 20, [1 - rank]) == [75]
    assert time.monotonic() - before < LIMIT + 15
    # Nothing in a process runs that does not let go of the lock, but for a thread of faulthandler.
    assert pair.wait(LIMIT + 80, [rank]) == [75 if how == 'python' else 1]
    pair.kill()
    assert f'process {rank} is stuck' in pair.error_line(1 - rank)
    assert f'continues from {workdir}/checkpoints/22' in pair.error_line(1 - rank)
    assert 'in stick' in pair.errors[rank]
    if how == 'python':
        assert 'in stick' in (workdir / 'run.log').read_text()

    again = Pair(workdir, *SHORT)
    assert again.wait() == [0, 0], again.errors
    assert_same_run(undisturbed, workdir)
