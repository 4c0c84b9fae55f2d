"""Runs the real commands on a tiny network, in a process each, with a fault in a place of the test's choice."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
from commands_support import finished

from resnet_jax.runs import checkpoint
from resnet_jax.runs.checksums import checksums_text

ROOT = Path(__file__).resolve().parents[2]
PER_EPOCH = 10  # steps, and a checkpoint after each epoch

# Everything that a checkpoint must hold: momentum, averages, statistics, a best epoch, metrics that wait for their row.
TINY = (
    '--config=configs/quickstart.py',
    '--config.dataset=synthetic_digits',
    '--config.model_kwargs.num_filters=2',
    '--config.model_kwargs.stage_sizes=1,',
    '--config.batch_size=128',
    '--config.validation_size=128',
    '--config.ema_decay=0.9',
    '--config.num_epochs=4',
    '--config.warmup_epochs=0.5',
    '--config.log_every=3',
    '--config.checkpoint_every_epochs=1',
)


def command(*arguments, failpoint='', devices=1, through=(), **environment):
    """Returns the arguments of subprocess.Popen for `python [through] bin/<arguments>`; None unsets a variable."""
    script, *rest = map(str, arguments)
    changed = {
        **os.environ,
        'JAX_NUM_CPU_DEVICES': str(devices),
        'PYTHONUNBUFFERED': '1',
        'RESNET_JAX_FAILPOINT': failpoint,
        **environment,
    }
    return {
        'args': [sys.executable, *map(str, through), str(ROOT / 'bin' / script), *rest],
        'cwd': ROOT,
        'env': {name: value for name, value in changed.items() if value is not None},
    }


def run(*arguments, code=0, timeout=600, new_process=False, **options):
    """Runs a command, checks its exit code and that it shows no traceback; see `commands_support.run`."""
    return finished(command(*arguments, **options), code, timeout, new_process)


def train(workdir, *flags, **options):
    """Runs bin/train.py on the tiny network; see `run`."""
    return run('train.py', *TINY, *flags, f'--workdir={workdir}', **options)


def steps(workdir):
    return checkpoint.steps(workdir / 'checkpoints')


def rows(workdir, split=None):
    path = workdir / 'metrics.jsonl'
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # cut by SIGKILL
            continue
    return [row for row in found if split in (None, row['split'])]


def arrays(path):
    """Every array of a checkpoint, by name."""
    with checkpoint._checkpointer() as checkpointer:
        tree = checkpointer.restore((path / 'arrays').absolute())
    return {name: np.asarray(leaf) for name, leaf in checkpoint.leaves_by_name(tree).items()}


def outcome(workdir):
    """What a run has come to, bit for bit: the last state, all rows, and the result without its time."""
    number = steps(workdir)[-1]
    checkpoint.verify(workdir / 'checkpoints' / str(number))
    result = json.loads((workdir / 'result.json').read_text())
    state = {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in arrays(workdir / 'checkpoints' / str(number)).items()}
    return number, state, (workdir / 'metrics.jsonl').read_bytes(), {**result, 'seconds': 0}


def assert_same_outcome(actual, expected):
    for mine, theirs, what in zip(actual, expected, ('step', 'state', 'metrics.jsonl', 'result.json'), strict=True):
        if isinstance(mine, dict):
            assert mine.keys() == theirs.keys(), what
            assert [name for name in mine if mine[name] != theirs[name]] == [], what
        assert mine == theirs, what


def edit(path, change):
    """Changes a checkpoint's metadata and makes its sums fit."""
    metadata = json.loads((path / 'metadata.json').read_text())
    change(metadata)
    (path / 'metadata.json').write_text(json.dumps(metadata))
    (path / 'SHA256SUMS').write_text(checksums_text(path))


def temporary_files(workdir):
    return [str(p) for p in workdir.rglob('*') if 'partial' in p.name or 'tmp' in p.name]


def hashes(*folders):
    """SHA-256 of every regular file below some folders, except locks, which hold the number of the latest process."""
    paths = [p for folder in folders for p in sorted(folder.rglob('*')) if p.is_file() and not p.is_symlink()]
    paths = [p for p in paths if p.name != '.lock']
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
