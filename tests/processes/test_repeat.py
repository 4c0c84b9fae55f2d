"""The same command again and again, and for long."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from commands_support import TINY, command, run
from pair import arrays, assert_same_run

pytestmark = pytest.mark.slow


def test_the_same_command_gives_the_same_bits_and_another_seed_others(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    for workdir in folders[:3]:
        run('train.py', *TINY, f'--workdir={workdir}')
    run('train.py', *TINY, '--config.seed=1', f'--workdir={folders[3]}')
    assert_same_run(folders[0], folders[1])
    assert_same_run(folders[0], folders[2])
    first, other = arrays(folders[0]), arrays(folders[3])
    assert any((first[name] != other[name]).any() for name in first if name.startswith('params/') and 'kernel' in name)


def test_the_deterministic_option_changes_nothing_on_a_cpu(tmp_path):
    run('train.py', *TINY, f'--workdir={tmp_path / "without"}')
    run('train.py', *TINY, '--config.deterministic=True', f'--workdir={tmp_path / "with"}')
    assert_same_run(tmp_path / 'without', tmp_path / 'with')


def resources(pid):
    """Returns a process's resident memory in kB, and its numbers of threads and of open files."""
    status = Path(f'/proc/{pid}/status').read_text()
    memory, threads = (int(re.search(rf'^{name}:\s+(\d+)', status, re.M)[1]) for name in ('VmRSS', 'Threads'))
    return memory, threads, len(list(Path(f'/proc/{pid}/fd').iterdir()))


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='reads /proc')
def test_a_thousand_steps_and_two_hundred_saves_leave_nothing_behind(tmp_path):
    # 1,437 examples make 5 steps of 287.
    flags = ['--config.batch_size=287', '--config.num_epochs=200', '--config.eval_every_epochs=200', '--config.log_every=100']
    stops = ','.join(f'saved:{save}:stop' for save in range(60, 201, 20))  # every 100 steps, after the first 300
    options = command(
        'train.py',
        *TINY,
        *flags,
        '--config.checkpoint_every_epochs=1',
        f'--workdir={tmp_path / "run"}',
        RESNET_JAX_FAILPOINT=stops,
    )
    process = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    collected = []
    for line in process.stderr:
        if line == 'failpoint saved: stop\n':
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            collected.append(resources(process.pid))
            process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    print('kB, threads, files after every 100 steps:', collected)
    memory, threads, files = zip(*collected, strict=True)
    growth = (memory[-1] / memory[0]) ** (1 / (len(memory) - 1)) - 1
    assert len(collected) == 8 and growth < 0.01
    # A pool of TensorStore may start another of its threads late, and a thread may have a file open; a leak would show in each
    # hundred steps, of 20 saves.
    assert threads[-1] <= threads[0] + 2 and files[-1] <= files[0] + 2
