"""A disk that fills up, that becomes read-only or whose folder goes away while a run goes on.

The disk is a tmpfs of 700 kB where the system lets us mount one (root in its own mount namespace). Elsewhere these are skipped.
"""

import fcntl
import os
import shutil
import signal
import subprocess

import pytest
from commands_support import error_line
from faults_support import (
    TINY,
    assert_same_outcome,
    command,
    hashes,
    outcome,
    rows,
    run,
    steps,
    temporary_files,
    train,
)

from resnet_jax.runs import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / 'disk'
    path.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=700k', 'tmpfs', path], capture_output=True).returncode:
        pytest.skip('a tmpfs cannot be mounted here')
    yield path
    subprocess.run(['umount', '-l', path], check=True)


def fill(disk, free=0):
    """Leaves so many bytes free."""
    with (disk / 'filler').open('wb', buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(file.tell() - free)


class Stopped:
    """A run that its failpoint stops; `go` lets it go on, to the next one or to its end."""

    def __init__(self, workdir, failpoint):
        options = command('train.py', *TINY, f'--workdir={workdir}', failpoint=failpoint)
        self.out = (workdir.parent.parent / 'stdout').open('w+')
        self.process = subprocess.Popen(**options, stdout=self.out, stderr=subprocess.PIPE, text=True)
        self.err = ''
        self.wait()

    def wait(self):
        for line in self.process.stderr:
            self.err += line
            if line.endswith(': stop\n'):
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
                return

    def go(self):
        self.process.send_signal(signal.SIGCONT)
        self.wait()

    def end(self, code):
        self.go()
        self.process.wait(timeout=600)
        self.out.seek(0)
        out = self.out.read()
        assert self.process.returncode == code, out + self.err
        assert 'Traceback' not in out + self.err
        assert sum(line.startswith('error: ') for line in self.err.splitlines()) == (code != 0), self.err
        return out


def assert_whole(workdir):
    assert steps(workdir)
    for number in steps(workdir):
        checkpoint.verify(workdir / 'checkpoints' / str(number))


def test_a_disk_that_is_full_for_a_while_costs_nothing(disk, undisturbed, expected):
    workdir = disk / 'run'
    stopped = Stopped(workdir, 'saved:1:stop,epoch:4:stop')
    fill(disk)
    stopped.go()  # through two epochs
    assert steps(workdir) == [10] and temporary_files(workdir) == []
    (disk / 'filler').unlink()
    out = stopped.end(0)
    assert 'No space left on device' in out and 'The run goes on' in out
    number, state, _, result = outcome(workdir)
    assert (number, state) == expected[:2]
    trained = [row for row in rows(undisturbed) if row['split'] != 'test']  # an epoch not saved cannot be the best
    assert [row for row in rows(workdir) if row['split'] != 'test'] == trained
    assert result['selected'] == 'validation' and result['step'] in steps(workdir)


@pytest.mark.parametrize('free', [0, 16, 48])  # with some room, many of Orbax's writes are under way when one fails
def test_a_disk_that_stays_full_ends_the_run_in_order(disk, expected, free):
    workdir = disk / 'run'
    stopped = Stopped(workdir, 'saved:2:stop')
    fill(disk, free * 1024)
    out = stopped.end(5)
    assert 'The run goes on' in out
    line = next(line for line in stopped.err.splitlines() if line.startswith('error: '))
    assert 'No space left on device' in line and 'free space' in line
    assert_whole(workdir)
    assert steps(workdir) == [10, 20] and temporary_files(workdir) == []
    (disk / 'filler').unlink()
    assert 'after iteration 20' in train(workdir).stdout
    assert_same_outcome(outcome(workdir), expected)


def test_a_disk_that_is_full_from_the_start(disk):
    fill(disk)
    assert 'No space left' in error_line(train(disk / 'run', code=5))


def test_a_disk_that_becomes_read_only(disk, expected):
    workdir = disk / 'run'
    stopped = Stopped(workdir, 'saved:1:stop')
    # Over it, since the run has files open on the first.
    subprocess.run(['mount', '--bind', disk, disk], check=True)
    subprocess.run(['mount', '-o', 'remount,bind,ro', disk], check=True)
    out = stopped.end(5)
    assert 'Read-only file system' in out + stopped.err
    subprocess.run(['umount', disk], check=True)
    assert_whole(workdir)
    train(workdir)
    assert_same_outcome(outcome(workdir), expected)


def test_a_folder_that_may_not_be_written(disk, undisturbed):
    shutil.copytree(undisturbed, disk / 'run')
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    for workdir in (disk / 'run', disk / 'new'):
        assert 'Read-only file system' in error_line(train(workdir, code=5))
    assert 'accuracy' in run('evaluate.py', f'--workdir={disk / "run"}').stdout


def test_a_folder_that_is_removed_is_made_again(tmp_path, expected):
    workdir = tmp_path / 'disk' / 'run'
    stopped = Stopped(workdir, 'saved:2:stop')
    shutil.rmtree(workdir)
    out = stopped.end(0)
    assert 'was removed while the run goes on' in out
    number, state, _, _ = outcome(workdir)
    assert (number, state) == expected[:2]


def test_a_folder_in_which_another_run_has_begun_is_its_own(tmp_path):
    workdir = tmp_path / 'disk' / 'run'
    stopped = Stopped(workdir, 'saved:2:stop')
    shutil.rmtree(workdir)
    train(workdir, '--config.num_epochs=1')
    before = hashes(workdir)
    other = (workdir / '.lock').open('a+')
    fcntl.flock(other, fcntl.LOCK_EX)
    stopped.end(6)
    assert f'run folder {workdir} is in use' in stopped.err and hashes(workdir) == before


def test_a_folder_that_cannot_be_made_again(tmp_path):
    workdir = tmp_path / 'disk' / 'run'
    stopped = Stopped(workdir, 'saved:2:stop')
    shutil.rmtree(workdir)
    workdir.write_text('a file in its place')
    stopped.end(5)
    assert workdir.read_text() == 'a file in its place'
