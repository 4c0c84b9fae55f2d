"""Runs the commands as a user does: in a process of their own, by exit code and output."""

import atexit
import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fork_server import ForkServer
from installed import quick_to_compile
from processor_time import children_seconds

from resnet_jax.runtime import huge_pages

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

# Variables that are read where they are used. Any other might be read by an import, so that a fork would miss it.
_READ_LATE = ('PYTEST_CURRENT_TEST', 'TFDS_DATA_DIR', 'RESNET_JAX_CACHE_DIR', 'XDG_CACHE_HOME', 'COLUMNS', 'TMPDIR')
_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}
_started: collections.Counter[frozenset[tuple[str, str]]] = collections.Counter()


def command(*arguments, devices=1, **environment):
    """Returns the arguments of subprocess.run for `python bin/<arguments>` with so many CPU devices; None unsets a variable."""
    script, *rest = map(str, arguments)
    changed = {**quick_to_compile(), 'JAX_NUM_CPU_DEVICES': str(devices), 'PYTHONUNBUFFERED': '1', **environment}
    return {
        'args': [sys.executable, str(ROOT / 'bin' / script), *rest],
        'cwd': ROOT,
        'env': {name: value for name, value in changed.items() if value is not None},
    }


def run(*arguments, code=0, timeout=120, new_process=False, **options):
    """Runs a command, checks its exit code and that it shows no traceback, and returns it with the `cpu_seconds` it took.

    Args:
      new_process: start Python, as a user does, instead of a fork of a process that has imported what commands need; one test
        of each command does so.
    """
    return finished(command(*arguments, **options), code, timeout, new_process)


def finished(options, code, timeout, new_process):
    """Runs what `command` returns; see `run`.

    Commands with variables of their own start anew too. No server is started for those that fail for their flags, most of which
    import little.
    """
    started = None if new_process else _forked(options, timeout, start=code != 2)
    if started is None:
        before = children_seconds()
        done = subprocess.run(**options, capture_output=True, text=True, timeout=timeout)
        done.cpu_seconds = children_seconds() - before
    else:
        done, done.cpu_seconds = started
    assert done.returncode == code, f'exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}'
    assert 'Traceback' not in done.stderr + done.stdout
    return done


def error_line(done):
    """Returns the one line that a failing command printed."""
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, done.stderr
    return lines[0]


def _forked(options, timeout, start):
    """Returns what a fork of a server for this environment has done, or None where there is no server for it."""
    environment = {**options['env'], **huge_pages.environment()}  # a command sets it, and restarts itself to do so
    key = frozenset(item for item in environment.items() if item[0] not in _READ_LATE)
    _started[key] += start
    if key not in _servers:
        if sys.platform != 'linux' or not start or _started[key] < 3:  # starting a server costs as much as two commands
            return None
        _servers[key] = ForkServer(environment)
        atexit.register(_servers[key].close)
    _, script, *rest = options['args']
    with Path(os.devnull).open() as nothing, tempfile.TemporaryFile('w+') as output, tempfile.TemporaryFile('w+') as errors:
        streams = [nothing.fileno(), output.fileno(), errors.fileno()]
        try:
            code, seconds = _servers[key].run(script, rest, str(options['cwd']), environment, streams, timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(options['args'], timeout) from None
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(options['args'], code, output.read(), errors.read()), seconds
