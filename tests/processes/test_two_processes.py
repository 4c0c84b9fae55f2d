import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands_support import error_line, run
from pair import SHORT, Pair, arrays, assert_same_run, free_port, rows

from resnet_jax.runs import checkpoint

LEFT = 60  # seconds; JAX alone would notice a lost process after 100


@pytest.mark.slow
def test_two_processes_end_with_the_state_of_one_with_two_devices(undisturbed, tmp_path):
    run('train.py', *SHORT, f'--workdir={tmp_path / "one"}', devices=2)
    left, right = arrays(tmp_path / 'one'), arrays(undisturbed)
    assert left['step'] == 44
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert [row['step'] for row in rows(tmp_path / 'one')] == [row['step'] for row in rows(undisturbed)]


@pytest.mark.slow
def test_stopped_by_a_signal_and_by_a_loss_a_run_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    pair = Pair(workdir, *SHORT, failpoints={1: 'step:6:term'})
    pair.until_failed(1)
    assert pair.wait(LEFT) == [143, 143], pair.errors
    assert all('the state is saved' in text for text in pair.errors)
    assert '2 cpu device(s)' in ''.join(pair.lines[0]) and not any('Iteration' in line for line in pair.lines[1])
    (step,) = checkpoint.steps(workdir / 'checkpoints')
    assert 6 <= step <= 22  # many steps may be in one dispatch, but none of the next epoch

    pair = Pair(workdir, *SHORT, failpoints={0: 'step:20:kill'})  # of those after the start
    pair.until_failed(0)
    assert f'after iteration {step}.' in ''.join(pair.lines[0])
    assert pair.wait(LEFT) == [-signal.SIGKILL, 75], pair.errors
    assert 'process 0 was lost' in pair.error_line(1) and f'continues from {workdir}/checkpoints/22' in pair.error_line(1)
    assert 'process 0 was lost' in (workdir / 'run.log').read_text()

    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    assert_same_run(undisturbed, workdir)


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    ('place', 'name'),
    [('step:6', 'term'), ('step:6', 'int'), ('step:6', 'hup'), ('evaluate:1', 'term'), ('evaluate:1', 'int'), ('save', 'term')],
)
def test_a_signal_to_one_stops_both_after_the_same_step(undisturbed, tmp_path, place, name, rank):
    workdir, code = tmp_path / 'run', 128 + {'term': signal.SIGTERM, 'int': signal.SIGINT, 'hup': signal.SIGHUP}[name]
    if place == 'save':  # process 0 writes, and process 1 waits for it
        place = ('arrays:1', 'broadcast:1')[rank]
    pair = Pair(workdir, *SHORT, failpoints={rank: f'{place}:{name}'})
    pair.until_failed(rank)
    assert pair.wait(LEFT) == [code, code], pair.errors
    assert all('the state is saved' in text and 'Traceback' not in text for text in pair.errors)
    (step,) = checkpoint.steps(workdir / 'checkpoints')
    assert 6 <= step <= 22 if place == 'step:6' else step == 22

    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    assert f'after iteration {step}.' in ''.join(pair.lines[0])
    assert_same_run(undisturbed, workdir)


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_a_second_signal_to_one_ends_it_at_once(undisturbed, tmp_path, rank):
    workdir = tmp_path / 'run'
    pair = Pair(workdir, *SHORT, failpoints={rank: 'step:30:stuck'})
    pair.until_failed(rank)
    time.sleep(0.3)  # until it is in C
    pair.processes[rank].send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert pair.processes[rank].poll() is None
    pair.processes[rank].send_signal(signal.SIGTERM)
    assert pair.wait(LEFT, [rank]) == [143]
    assert pair.wait(LEFT, [1 - rank])[0] in (75, 134), pair.errors
    pair.kill()
    assert 'Stopped at once.' in pair.errors[rank]

    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    assert 'after iteration 22.' in ''.join(pair.lines[0])
    assert_same_run(undisturbed, workdir)


@pytest.mark.slow
def test_processes_with_different_configs_do_not_start(tmp_path):
    pair = Pair(tmp_path / 'run', *SHORT, second=['--config.learning_rate=0.2'])
    assert pair.wait() == [2, 2], pair.errors
    assert all('the config of process 1' in pair.error_line(rank) for rank in range(2))
    assert all('(learning_rate: 0.1 -> 0.2)' in pair.error_line(rank) for rank in range(2))
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('what', 'devices', 'text'),
    [
        ('version', (1, 1), r'the environment of process 1 .*\(resnet_jax: .* -> \'9.9\'\)'),
        ('source', (1, 1), r'the environment of process 1 .*\(source files: \'\w+\' -> \'0123456789abcdef\'\)'),
        ('nothing', (1, 3), r'the environment of process 1 .*\(local devices: 1 -> 3\)'),
        ('data', (1, 1), r'the data set of process 1 .*\(fingerprint: \'\w+\' -> \'\w+\''),
    ],
)
def test_processes_with_different_versions_devices_or_data_do_not_start(what, devices, text, tmp_path):
    flags = [flag for flag in SHORT if not flag.startswith('--config=')]
    config = SHORT[0] if what == 'nothing' else f'--config={Path(__file__).with_name("different.py")}'
    pair = Pair(tmp_path / 'run', config, *flags, devices=devices, DIFFERENT=what)
    assert pair.wait() == [2, 2], pair.errors
    assert all(re.search(text, pair.error_line(rank)) for rank in range(2)), pair.errors
    assert not (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.slow
def test_a_run_folder_that_is_not_shared_is_refused(tmp_path):
    pair = Pair(tmp_path / 'run', *SHORT, second=[f'--workdir={tmp_path / "elsewhere"}'])
    assert pair.wait() == [75, 2], pair.errors
    assert f'process 1 does not see {tmp_path}/elsewhere/.lock' in pair.error_line(1)
    assert 'process 1 has failed: process 1 does not see' in pair.error_line(0)


def test_an_error_of_the_first_process_ends_the_second(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    (workdir / 'metrics.jsonl').mkdir()  # where a file should be written
    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [5, 75], pair.errors
    assert 'cannot be written' in pair.error_line(0)
    assert 'process 0 has failed' in pair.error_line(1) and 'cannot be written' in pair.error_line(1)


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'text'), [(0, 'not all of the other processes came'), (1, 'process 0 was not reached at')])
def test_a_process_that_is_alone_gives_up(rank, text, tmp_path):
    flags = [*SHORT, f'--workdir={tmp_path / "run"}', f'--coordinator_address=localhost:{free_port()}', '--num_processes=2']
    done = run('train.py', *flags, f'--process_id={rank}', '--initialization_timeout=2', code=75)
    assert text in error_line(done)


@pytest.mark.slow
def test_a_process_with_an_id_that_is_taken_is_refused_and_disturbs_nobody(tmp_path):
    workdir = tmp_path / 'run'
    pair = Pair(workdir, *SHORT, '--config.num_epochs=9999')
    pair.until('Iteration 30 ')
    for rank in (0, 1):
        flags = [*SHORT, f'--workdir={workdir}', f'--coordinator_address=localhost:{pair.port}', '--num_processes=2']
        done = run('train.py', *flags, f'--process_id={rank}', code=6)
        assert f'run folder {workdir} is in use by process {pair.processes[0].pid}' in error_line(done)
    other = [*SHORT, f'--workdir={tmp_path / "other"}', f'--coordinator_address=127.0.0.1:{pair.port}', '--num_processes=2']
    done = run('train.py', *other, '--process_id=1', code=75)
    assert f'another process on this machine has joined 127.0.0.1:{pair.port} as process 1' in error_line(done)
    assert not (tmp_path / 'other').exists()
    assert [process.poll() for process in pair.processes] == [None, None]
    pair.processes[1].send_signal(signal.SIGTERM)
    assert pair.wait(LEFT) == [143, 143], pair.errors


@pytest.mark.slow
def test_a_process_of_another_machine_with_an_id_that_is_taken_ends_the_run_with_a_line(tmp_path):
    pair = Pair(tmp_path / 'run', *SHORT, '--config.num_epochs=9999')
    pair.until('Iteration 30 ')
    # JAX alone, which asks no one on this machine whether the id is taken.
    join = f'jax.distributed.initialize("localhost:{pair.port}", 2, 1, initialization_timeout=5)'
    subprocess.run([sys.executable, '-c', f'import jax; {join}'], stderr=subprocess.PIPE, check=False)
    assert pair.wait() == [75, 75], pair.errors
    lines = [pair.error_line(rank) for rank in range(2)]
    assert all('start all processes again' in line for line in lines)
    # The second process may notice the end of the first before JAX tells it the reason.
    assert any('a process with the process_id of one of these has been started' in line for line in lines)


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(('localhost', 0))
        taken.listen()
        address = f'localhost:{taken.getsockname()[1]}'
        flags = [*SHORT, f'--workdir={tmp_path / "run"}', f'--coordinator_address={address}', '--num_processes=2']
        done = run('train.py', *flags, '--process_id=0', code=75)
    assert f'port {address.partition(":")[2]}: Address already in use' in error_line(done)


@pytest.mark.parametrize(
    ('flags', 'text'),
    [
        (['--coordinator_address=localhost'], 'HOST:PORT'),
        (['--coordinator_address=localhost:1', '--num_processes=2', '--process_id=2'], '--process_id is 2'),
    ],
)
def test_wrong_flags_are_one_line(flags, text):
    assert text in error_line(run('train.py', *SHORT, *flags, code=2))
