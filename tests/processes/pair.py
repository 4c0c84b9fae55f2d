"""Two processes of bin/train.py on this machine, and what their run folder holds."""

import contextlib
import json
import secrets
import socket
import subprocess
import threading
import time

import numpy as np
from commands_support import TINY, command

from resnet_jax.runs import checkpoint

# 44 iterations, with a checkpoint at 22.
SHORT = (
    *TINY,
    '--config.num_epochs=2',
    '--config.checkpoint_every_epochs=1',
    '--config.log_every=2',
    '--config.eval_batch_size=2',
    '--config.cross_device_batch_norm=True',
)


def free_port():
    """Below the ports that the kernel hands out by itself: one of those may be taken again before the coordinator has it."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(('localhost', port))
            return port


class Pair:
    """Starts both processes.

    Args:
      arguments: of both; `first` and `second`: of one of them besides.
      devices: of each.
      failpoints: {rank: what goes wrong in that process}, see resnet_jax/failpoints.py.

    Attributes:
      lines, errors: of each, what it has printed so far, and its standard error.
      failed_at: of each, when its failpoint was reached (time.monotonic()).
    """

    def __init__(self, workdir, *arguments, first=(), second=(), devices=(1, 1), failpoints=None, **environment):
        self.workdir, self.port, failpoints = workdir, free_port(), failpoints or {}
        self.processes = [
            subprocess.Popen(
                **command(
                    'train.py',
                    *arguments,
                    f'--workdir={workdir}',
                    *extra,
                    f'--coordinator_address=localhost:{self.port}',
                    '--num_processes=2',
                    f'--process_id={rank}',
                    devices=devices[rank],
                    RESNET_JAX_FAILPOINT=failpoints.get(rank, ''),
                    **environment,
                ),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, extra in enumerate((first, second))
        ]
        self.lines, self.errors, self.failed_at = ([], []), ['', ''], [None, None]
        readers = [(read, rank) for read in (self._read, self._read_errors) for rank in range(2)]
        self._threads = [threading.Thread(target=read, args=[rank], daemon=True) for read, rank in readers]
        for thread in self._threads:
            thread.start()

    def _read(self, rank):
        for line in self.processes[rank].stdout:
            self.lines[rank].append(line)

    def _read_errors(self, rank):
        for line in self.processes[rank].stderr:
            self.errors[rank] += line
            if line.startswith('failpoint '):
                self.failed_at[rank] = time.monotonic()

    def until(self, condition, seconds=600):
        """Waits for a line of the first process that begins so, or for a function that returns True."""
        met = condition if callable(condition) else lambda: any(line.startswith(condition) for line in list(self.lines[0]))
        end = time.monotonic() + seconds
        while not met():
            if any(process.poll() is not None for process in self.processes) or time.monotonic() > end:
                self.kill()
                raise AssertionError(([process.returncode for process in self.processes], self.lines, self.errors))
            time.sleep(0.005)

    def until_failed(self, rank):
        """Waits until a process has reached its failpoint, and returns when that was."""
        end = time.monotonic() + 600
        while self.failed_at[rank] is None:
            if self.processes[rank].poll() is not None or time.monotonic() > end:
                self.kill()  # and what it has written is read to its end
                if self.failed_at[rank] is None:
                    raise AssertionError(('the failpoint was not reached', self.lines, self.errors))
            time.sleep(0.005)
        return self.failed_at[rank]

    def wait(self, seconds=600, ranks=(0, 1)):
        """Waits for the end and returns the exit codes."""
        try:
            return [self.processes[rank].wait(seconds) for rank in ranks]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError((f'not ended after {seconds} s', self.lines, self.errors)) from None
        finally:
            if len(ranks) == 2:
                self.kill()

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()

    def error_line(self, rank):
        lines = [line for line in self.errors[rank].splitlines() if line.startswith('error: ')]
        assert len(lines) == 1, self.errors
        assert 'Traceback' not in self.errors[rank]
        return lines[0]


def rows(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def arrays(workdir, step=None):
    """A checkpoint's arrays by name; by default the newest one's."""
    step = checkpoint.steps(workdir / 'checkpoints')[-1] if step is None else step
    checkpoint.verify(workdir / 'checkpoints' / str(step))
    with checkpoint._checkpointer() as checkpointer:
        tree = checkpointer.restore((workdir / 'checkpoints' / str(step) / 'arrays').absolute())
    return {name: np.asarray(leaf) for name, leaf in checkpoint.leaves_by_name(tree).items()}


def assert_same_run(left, right):
    """The same bits in the last checkpoint and in the metrics, and no temporary files."""
    ours, theirs = arrays(left), arrays(right)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        other = theirs[name]
        assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), name
    assert (left / 'metrics.jsonl').read_bytes() == (right / 'metrics.jsonl').read_bytes()
    assert not list(right.rglob('*partial*'))
