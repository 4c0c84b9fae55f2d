"""Runs the commands as a user does: in a process of their own, by exit code and output."""

import os
import subprocess
import sys
from pathlib import Path

from processor_time import children_seconds

ROOT = Path(__file__).resolve().parents[2]

# A network and a run as small as they can be while every part of them is there.
TINY = (
    '--config=configs/quickstart.py',
    '--config.num_epochs=4',
    '--config.warmup_epochs=0.5',
    '--config.log_every=5',
    '--config.model_kwargs.num_filters=4',
    '--config.model_kwargs.stage_sizes=1,1',
)


def command(*arguments, devices=1, **environment):
    """Returns the arguments of subprocess.run for `python bin/<arguments>` with so many CPU devices; None unsets a variable."""
    script, *rest = map(str, arguments)
    changed = {**os.environ, 'JAX_NUM_CPU_DEVICES': str(devices), 'PYTHONUNBUFFERED': '1', **environment}
    return {
        'args': [sys.executable, str(ROOT / 'bin' / script), *rest],
        'cwd': ROOT,
        'env': {name: value for name, value in changed.items() if value is not None},
    }


def run(*arguments, code=0, timeout=120, **options):
    """Runs a command, checks its exit code and that it shows no traceback, and returns it with the `cpu_seconds` it took."""
    before = children_seconds()
    done = subprocess.run(**command(*arguments, **options), capture_output=True, text=True, timeout=timeout)
    done.cpu_seconds = children_seconds() - before
    assert done.returncode == code, f'exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}'
    assert 'Traceback' not in done.stderr + done.stdout
    return done


def error_line(done):
    """Returns the one line that a failing command printed."""
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, done.stderr
    return lines[0]
