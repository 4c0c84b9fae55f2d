"""Numbers that are not finite, and memory that does not suffice: what was saved stays, and the line says what to do."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands_support import error_line
from faults_support import arrays, assert_same_outcome, edit, hashes, outcome, rows, steps, train

from resnet_jax.runs import checkpoint
from resnet_jax.runs.metadata import read_metadata
from resnet_jax.runs.progress import Best
from resnet_jax.training.loading import seed_key
from resnet_jax.training.program import train_steps
from resnet_jax.training.state import TrainState


def assert_only_finite(workdir):
    for number in steps(workdir):
        checkpoint.verify(workdir / 'checkpoints' / str(number))
        for name, array in arrays(workdir / 'checkpoints' / str(number)).items():
            assert np.isfinite(array).all(), name
    text = (workdir / 'metrics.jsonl').read_text()
    assert 'NaN' not in text and 'Infinity' not in text


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_the_run(tmp_path, expected):
    workdir = tmp_path / 'run'
    line = error_line(train(workdir, failpoint='image:25:nan', code=4))
    assert re.search(r'diverged at iteration 26: loss [\w.+]+, gradient norm nan, learning rate 0\.0\d+; ', line)
    assert '--config.divergence_retries=1' in line
    assert steps(workdir)[-1] == 20 and not (workdir / 'result.json').exists()
    assert_only_finite(workdir)
    assert 'after iteration 20' in train(workdir).stdout  # where it does not happen again
    assert_same_outcome(outcome(workdir), expected)


@pytest.mark.slow
def test_a_learning_rate_that_is_far_too_large(tmp_path):
    line = error_line(train(tmp_path / 'run', '--config.learning_rate=1e20', code=4))
    assert re.search(r'diverged at iteration \d+: .*gradient norm [\w.+]+, learning rate [\d.]+e\+\d+; ', line)
    assert steps(tmp_path / 'run') == []


@pytest.mark.slow
def test_a_learning_rate_that_is_far_too_large_from_one_epoch_on(interrupted):
    """As if the run had been started with it: what was saved before, the best epoch among it, stays."""
    for number in steps(interrupted):
        edit(interrupted / 'checkpoints' / str(number), lambda metadata: metadata['config'].update(learning_rate=1e20))
    config = json.loads((interrupted / 'config.json').read_text())
    (interrupted / 'config.json').write_text(json.dumps({**config, 'learning_rate': 1e20}))
    before = hashes(interrupted / 'checkpoints')
    line = error_line(train(interrupted, '--config.learning_rate=1e20', code=4))
    assert re.search(r'diverged at iteration 3\d: .*gradient norm [\w.+]+, learning rate [\d.]+e\+\d+; ', line)
    assert hashes(interrupted / 'checkpoints') == before and not (interrupted / 'result.json').exists()
    assert_only_finite(interrupted)


@pytest.mark.slow
def test_it_goes_back_and_retries_at_half_the_rate(tmp_path):
    workdir = tmp_path / 'run'
    done = train(workdir, '--config.divergence_retries=2', failpoint='image:25:nan')
    assert 'Retry 1 of 2: back to the last checkpoint, at 0.5 times the learning rate' in done.stdout
    assert 'after iteration 20' in done.stdout
    rates = {row['step']: row['learning_rate'] for row in rows(workdir, 'train')}
    whole = [0.5 * 0.2 * (1 + math.cos(math.pi * (step - 1 - 5) / 35)) for step in rates]  # 0.1 at batch 64, so 0.2 at 128
    for (step, rate), full in zip(rates.items(), whole, strict=True):
        if step > 5:
            assert rate == pytest.approx(full if step <= 20 else full / 2, rel=1e-5), step
    assert list(rates) == [*range(3, 40, 3), 40]
    assert json.loads((workdir / 'result.json').read_text())['epoch'] <= 4
    assert read_metadata(workdir / 'checkpoints' / '40').progress.rollbacks == 1
    assert_only_finite(workdir)


@pytest.mark.slow
def test_the_lower_rate_outlives_a_kill(tmp_path):
    options = ['--config.divergence_retries=1']
    train(tmp_path / 'one', *options, failpoint='image:25:nan')
    # The epochs end at 10, 20, and after going back to 20 at 30 and 40.
    train(tmp_path / 'two', *options, failpoint='image:25:nan,epoch:3:term', code=143)
    assert 'after iteration 30' in train(tmp_path / 'two', *options).stdout
    assert outcome(tmp_path / 'two')[:3] == outcome(tmp_path / 'one')[:3]


@pytest.mark.slow
def test_a_run_that_has_ended_so_goes_on_with_retries(tmp_path):
    workdir = tmp_path / 'run'
    train(workdir, failpoint='image:25:nan', code=4)
    done = train(workdir, '--config.divergence_retries=1', failpoint='image:25:nan')
    assert done.stdout.count('after iteration 20') == 2 and 'Retry 1 of 1' in done.stdout
    train(tmp_path / 'at once', '--config.divergence_retries=1', failpoint='image:25:nan')
    assert outcome(workdir)[:3] == outcome(tmp_path / 'at once')[:3]
    assert_only_finite(workdir)


@pytest.mark.slow
def test_retries_have_an_end(tmp_path):
    done = train(tmp_path / 'run', '--config.learning_rate=1e20', '--config.divergence_retries=2', code=4)
    assert 'Retry 2 of 2' in done.stdout and '--config.divergence_retries=3' in error_line(done)


@pytest.mark.slow
def test_an_evaluation_that_is_not_a_number_leaves_the_best_as_it_was(tmp_path, expected):
    workdir = tmp_path / 'run'
    line = error_line(train(workdir, failpoint='metric:3:nan', code=4))
    assert 'diverged at iteration 30: loss nan in the evaluation, gradient norm' in line
    best = max(rows(workdir, 'validation'), key=lambda row: (row['accuracy'], -row['step']))
    kept = read_metadata(workdir / 'checkpoints' / '20').progress.best
    assert kept == Best(best['step'], best['accuracy']) and best['step'] in steps(workdir)
    assert steps(workdir)[-1] == 20
    assert 'after iteration 20' in train(workdir).stdout
    assert_same_outcome(outcome(workdir), expected)


@pytest.mark.slow
@pytest.mark.parametrize('point', ['evaluation:3:memory', 'step:15:memory'])
def test_out_of_memory(point, tmp_path, expected):
    workdir = tmp_path / 'run'
    line = error_line(train(workdir, failpoint=point, code=5))
    assert 'out of device memory at batch_size 128' in line
    assert '--config.gradient_accumulation_steps=2' in line and '--config.dtype=bfloat16' in line
    assert steps(workdir) == [10]
    assert 'after iteration 10' in train(workdir).stdout
    assert_same_outcome(outcome(workdir), expected)


@pytest.mark.parametrize(('which', 'value'), [('loss', jnp.nan), ('grad_norm', jnp.inf)])
def test_what_follows_a_step_that_is_not_finite(which, value):
    """The state before it is what is left, whichever of loss and gradient it was, and nothing is computed after."""

    def step_fn(state, batch, key):
        metrics = {'loss': 1.0, 'grad_norm': 1.0, 'accuracy': 1.0}
        metrics[which] = jnp.where(state.step == 4, value, 1.0)
        return jax.tree.map(lambda x: x + 1, state), metrics

    zero = jnp.float32(0)
    state = TrainState(jnp.int32(2), {'w': zero}, {'mean': zero}, {'trace': zero}, {'params': {'w': zero}})
    order, positions = jnp.zeros((9, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    data = {'image': jnp.zeros(1), 'label': positions}
    new, metrics = train_steps(state, positions, data, order, seed_key(0), 2, 6, step_fn=step_fn, load_fn=lambda *_: {})
    assert int(new.step) == 4 and [float(x) for x in jax.tree.leaves(new.replace(step=zero))] == [0, 2, 2, 2, 2]
    np.testing.assert_array_equal(np.isfinite(metrics[which]), [i != 4 for i in range(9)])
    np.testing.assert_array_equal(metrics['accuracy'], [0, 0, 1, 1, 1, 0, 0, 0, 0])
