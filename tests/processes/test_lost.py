"""One of two processes is killed, stopped or stuck: the other leaves in time, and starting both again ends as if nothing had
happened."""

import re
import time
from pathlib import Path

import pytest
from pair import SHORT, Pair, assert_same_run, rows

from resnet_jax.runs import checkpoint

pytestmark = pytest.mark.slow
LIMIT = 12  # seconds, of the watchdog
LEFT = 60  # seconds; JAX alone would notice a lost process after 100


# In the second of two epochs of 22 iterations. In an evaluation the other process waits for this one's share of the first
# batches; while process 0 writes a checkpoint, process 1 waits for it to agree.
PLACES = {
    ('training', 0): 'step:30',
    ('training', 1): 'step:30',
    ('evaluation', 0): 'evaluate:2',
    ('evaluation', 1): 'evaluate:2',
    ('saving', 0): 'arrays:2',
    ('saving', 1): 'broadcast:2',
}


@pytest.mark.parametrize(('phase', 'rank'), PLACES)
@pytest.mark.parametrize('how', ['kill', 'stop'])
def test_the_survivor_leaves(undisturbed, tmp_path, rank, how, phase):
    workdir, other = tmp_path / 'run', 1 - rank
    pair = Pair(workdir, *SHORT, failpoints={rank: f'{PLACES[phase, rank]}:{how}'})
    lost = pair.until_failed(rank)
    assert pair.wait(LEFT, [other]) == [75]
    seconds = time.monotonic() - lost
    print(f'process {rank} {how} in {phase}: the other left after {seconds:.1f} s')
    pair.kill()
    written = {(row['step'], row['split']) for row in rows(workdir)}
    assert (22, 'test') in written and ((44, 'test') in written) <= (phase == 'saving')
    newest = checkpoint.steps(workdir / 'checkpoints')[-1]
    assert newest == 22 or (newest == 44 and (phase, rank) == ('saving', 1))  # process 0 had finished writing
    line = pair.error_line(other)
    assert f'process {rank} was lost' in line and f'continues from {workdir}/checkpoints/{newest}' in line

    again = Pair(workdir, *SHORT)
    assert again.wait() == [0, 0], again.errors
    assert f'after iteration {newest}.' in ''.join(again.lines[0])
    assert_same_run(undisturbed, workdir)


@pytest.mark.parametrize(('rank', 'how'), [(0, 'python'), (1, 'python'), (1, 'lock')])
def test_all_leave_one_that_is_stuck(undisturbed, tmp_path, rank, how):
    workdir = tmp_path / 'run'
    stuck = [flag for flag in SHORT if not flag.startswith('--config=')]
    config = f'--config={Path(__file__).with_name("stuck.py")}'
    pair = Pair(workdir, config, *stuck, f'--config.watchdog_seconds={LIMIT}', STUCK=f'{rank} {how}')
    pair.until('Iteration 30 ')
    assert pair.wait(LIMIT + LEFT, [1 - rank]) == [75]
    # Nothing in a process runs that does not let go of the lock, but for a thread of faulthandler.
    assert pair.wait(LIMIT + 80, [rank]) == [75 if how == 'python' else 1]
    pair.kill()
    assert f'process {rank} is stuck' in pair.error_line(1 - rank)
    assert f'continues from {workdir}/checkpoints/22' in pair.error_line(1 - rank)
    assert 'in stick' in pair.errors[rank]
    log = (workdir / 'run.log').read_text()
    # Wherever it waits for the other: as it agrees on the next dispatch, or on whether to stop after this one.
    waits = re.search('in (broadcast|any_signal)', pair.errors[1 - rank])
    assert f'process {1 - rank}: Thread MainThread:' in log and waits
    if how == 'python':
        assert f'process {rank}: Thread MainThread:' in log and 'in stick' in log

    again = Pair(workdir, *SHORT)
    assert again.wait() == [0, 0], again.errors
    assert 'after iteration 22.' in ''.join(again.lines[0])
    assert_same_run(undisturbed, workdir)
