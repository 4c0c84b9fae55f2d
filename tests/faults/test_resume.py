"""What may change between two starts of a run and what may not, and who may start it."""

import json
import shutil
import signal
import subprocess

import pytest
from commands_support import error_line
from faults_support import TINY, assert_same_outcome, command, edit, hashes, outcome, rows, steps, train

from resnet_jax.runs.checksums import checksums_text
from resnet_jax.runs.metadata import FORMAT

pytestmark = pytest.mark.slow


def test_another_config_is_refused_with_a_diff(undisturbed):
    before = hashes(undisturbed)
    done = train(undisturbed, '--config.learning_rate=0.2', '--config.dtype=bfloat16', '--config.seed=7', code=2)
    for part in ('learning_rate: 0.1 -> 0.2', "dtype: 'float32' -> 'bfloat16'", 'seed: 0 -> 7'):
        assert part in error_line(done)
    assert hashes(undisturbed) == before


def test_free_fields_may_change_and_are_logged(interrupted, expected):
    done = train(interrupted, '--config.checkpoint_every_epochs=2', '--config.eval_batch_size=100')
    assert 'checkpoint_every_epochs: 1 -> 2' in done.stdout and 'eval_batch_size: 1000 -> 100' in done.stdout
    assert outcome(interrupted)[:2] == expected[:2]


def test_more_epochs_only_when_asked_for(undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / 'run')
    before, result = hashes(workdir), (workdir / 'result.json').read_bytes()
    longer = '--config.num_epochs=5'
    assert '--extend' in error_line(train(workdir, longer, code=2))
    assert hashes(workdir) == before
    done = train(workdir, longer, '--extend')
    assert 'after iteration 40' in done.stdout and json.loads((workdir / 'config.json').read_text())['num_epochs'] == 5
    assert steps(workdir)[-1] == 50 and rows(workdir, 'validation')[-1]['step'] == 50
    assert (workdir / 'result-4-epochs.json').read_bytes() == result
    assert 'is finished' in train(workdir, longer).stdout


OTHERS = {
    'model': (lambda m: m['config'].update(model='resnet14'), 2, "model: 'resnet14' -> 'resnet8'"),
    'data set': (lambda m: m['dataset'].update(fingerprint='other', mean=[0.4]), 2, 'other data (fingerprint, mean differ)'),
    'dtype': (lambda m: m['config'].update(dtype='bfloat16'), 2, "dtype: 'bfloat16' -> 'float32'"),
    'newer format': (lambda m: m.update(format=FORMAT + 1), 3, f'has format {FORMAT + 1}; this version reads {FORMAT}'),
    'no format': (lambda m: m.pop('format'), 3, 'has no format'),
    'a path as a step': (lambda m: m['progress'].update(best={'step': '../../../etc', 'accuracy': 1}), 3, 'best'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_a_checkpoint_of_something_else(name, interrupted):
    change, code, text = OTHERS[name]
    (interrupted / 'config.json').unlink()  # which would tell it already
    edit(interrupted / 'checkpoints' / '30', change)
    before = hashes(interrupted / 'checkpoints')
    assert text in error_line(train(interrupted, code=code))
    assert hashes(interrupted / 'checkpoints') == before


def test_arrays_of_another_network(interrupted, tmp_path):
    """Under the same metadata: nothing is cast or cut to fit."""
    wider = tmp_path / 'wider'
    train(wider, '--config.model_kwargs.num_filters=3', '--config.num_epochs=1')
    path = interrupted / 'checkpoints' / '30'
    shutil.rmtree(path / 'arrays')
    shutil.copytree(wider / 'checkpoints' / '10' / 'arrays', path / 'arrays')
    (path / 'SHA256SUMS').write_text(checksums_text(path))
    line = error_line(train(interrupted, code=2))
    assert 'batch_stats/bn1/mean is float32[3] there, expected float32[2]' in line


def test_two_trainers_and_a_killed_one(tmp_path, expected):
    workdir = tmp_path / 'run'
    options = command('train.py', *TINY, f'--workdir={workdir}', failpoint='saved:1:stop')
    process = subprocess.Popen(**options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == 'failpoint saved: stop\n'
    before = hashes(workdir)
    line = error_line(train(workdir, code=6))
    assert f'process {process.pid}' in line
    assert hashes(workdir) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    train(workdir)
    assert_same_outcome(outcome(workdir), expected)
