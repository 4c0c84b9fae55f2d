"""The whole recipe against PyTorch: network, Muon, SGD, their rates and lookahead, from the same weights and batches."""

import functools
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch_speedrun import Lookahead, Muon

from resnet_jax.benchmark.torch_networks import create_torch_model
from resnet_jax.classifier import Classifier
from resnet_jax.data.augment import normalize
from resnet_jax.errors import Interrupted
from resnet_jax.runs import checkpoint
from resnet_jax.runs.checkpoint import leaves_by_name
from resnet_jax.runtime import dispatch
from resnet_jax.training import experiment, step
from resnet_jax.training.api import Callback
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.lookahead import pull
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.weights.names import flatten, to_torch, torch_name

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS, BATCH = 20, 16
SIZE = 17
DATA = tiny.dataset(train=10 * BATCH, test=8, size=SIZE, channels=3)  # an epoch has 10 steps
RECIPE = {
    'model': 'speedrun94',
    'model_kwargs': {'widths': (28, 12), 'logit_scale': 1 / 12},
    'num_epochs': 2,
    'batch_size': BATCH,
    'base_batch_size': 2 * BATCH,
    'optimizer': 'muon',
    'learning_rate': 0.3,  # half of it at this batch size
    'bias_learning_rate': 0.5,
    'head_learning_rate': 8.0,
    'momentum': 0.85,
    'muon_momentum': 0.6,
    'weight_decay': 0.02,
    'decay_norm_and_bias': True,
    'schedule': 'linear',
    'warmup_epochs': 0.0,
    'whitening_bias_epochs': 0.7,
    'label_smoothing': 0.2,
    'lookahead_sync_period': 3,
}


@pytest.fixture(autouse=True)
def stripes(monkeypatch):
    tiny.register(monkeypatch, DATA)


def create(**overrides):
    return create_experiment(tiny.checked(**{**RECIPE, **overrides}), DATA.info)


def initial_state(run):
    return run.create_state(run.whitening_kernel(DATA.train.image))


def torch_tensors(model, state):
    arrays = flatten(state.variables)
    shapes = {name: array.shape for name, array in arrays.items()}
    return {
        torch_name(name, 'torchvision'): torch.tensor(np.ascontiguousarray(to_torch(array, model, name, shapes)))
        for name, array in arrays.items()
    }


def batches():
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        chosen = rng.integers(0, len(DATA.train.label), BATCH)
        images = np.asarray(normalize(DATA.train.image[chosen], DATA.mean, DATA.std))
        yield images, np.eye(3, dtype=np.float32)[DATA.train.label[chosen]] * 0.8 + 0.2 / 3


def our_path(run):
    state = initial_state(run)
    lookahead_fn = functools.partial(pull, sync_period=3, decay=0.774, total_steps=STEPS)
    step_fn = jax.jit(functools.partial(step.train_step, model=run.model, tx=run.tx, lookahead_fn=lookahead_fn, axis_name=None))
    losses, states = [], [state]
    for images, labels in batches():
        state, metrics = step_fn(state, {'image': images, 'label': labels}, jax.random.key(0))
        losses.append(float(metrics['loss']))
        states.append(jax.device_get(state))
    return np.array(losses), states


def torch_path(module):
    """In the terms of the records: losses are sums over the batch, and a rate is that of one example."""
    rates = {'kernel': 0.3 / 2, 'bias': 0.5 / 2, 'head': 8.0 / 2}
    decay = 0.02 * rates['kernel']  # the share that every parameter of SGD loses
    by_name = dict(module.named_parameters())
    assert not by_name.pop('whiten.weight').requires_grad
    groups = {
        'whitening': [by_name.pop('whiten.bias')],
        'bias': [p for p in by_name.values() if p.ndim == 1],
        'head': [by_name.pop('fc.weight')],
    }
    options = [
        {'params': group, 'name': name, 'peak': peak / BATCH, 'weight_decay': decay / (peak / BATCH)}
        for (name, group), peak in zip(groups.items(), (rates['bias'], rates['bias'], rates['head']), strict=True)
    ]
    sgd = torch.optim.SGD(options, lr=1.0, momentum=0.85, nesterov=True)
    muon = Muon([p for p in by_name.values() if p.ndim == 4], 0.0, 0.6, True, 3)
    muon.param_groups[0].update(peak=rates['kernel'], name='kernel')
    lookahead = Lookahead(module, 3, 0.774, STEPS)
    losses, states, whitening_steps = [], [], math.ceil(0.7 * 10)
    for number, (images, labels) in enumerate(batches()):
        for group in (*sgd.param_groups, *muon.param_groups):
            length = whitening_steps if group['name'] == 'whitening' else STEPS
            group['lr'] = group['peak'] * max(0.0, 1 - number / length)
        logits = module.train()(torch.tensor(images.transpose(0, 3, 1, 2)))
        loss = F.cross_entropy(logits, torch.tensor(labels), reduction='sum')
        sgd.zero_grad()
        muon.zero_grad()
        loss.backward()
        sgd.step()
        muon.step()
        lookahead.step(number + 1)
        losses.append(loss.item() / BATCH)
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    return np.array(losses), states


@pytest.fixture(scope='module')
def paths():
    run = create()
    module = create_torch_model('speedrun94', 3, RECIPE['model_kwargs'])
    missing, unexpected = module.load_state_dict(torch_tensors(run.model, initial_state(run)), strict=False)
    assert not unexpected and all(name.endswith('num_batches_tracked') for name in missing)
    return run, our_path(run), torch_path(module)


def test_losses_of_twenty_steps_agree(paths):
    _, (losses, _), (expected, _) = paths
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    assert losses[-3:].mean() < 0.8 * losses[0]


def running_variance_as_torch(ours, pixels):
    """PyTorch's, which is larger by n / (n - 1) but for the share of the initial 1, which every step makes smaller."""
    share, slow = 1.0, 1.0
    for number in range(1, STEPS + 1):
        share *= 0.6
        if number % 3 == 0:
            keep = 0.774 * (number / STEPS) ** 3
            share = slow = keep * slow + (1 - keep) * share
    share, n = slow, BATCH * pixels
    return share + (ours - share) * n / (n - 1)


def test_parameters_and_statistics_after_twenty_steps_agree(paths):
    run, (_, states), (_, expected_states) = paths
    actual, expected = torch_tensors(run.model, states[-1]), expected_states[-1]
    for name, tensor in actual.items():
        if name.endswith('running_var'):
            tensor = running_variance_as_torch(tensor, {'layer1': 8 * 8, 'layer2': 4 * 4}[name.split('.')[0]])
        scale = expected[name].abs().max()
        assert (tensor - expected[name]).abs().max() < 1e-3 * scale, name


def test_what_is_frozen_and_for_how_long(paths):
    run, (_, states), _ = paths
    for state in states:
        np.testing.assert_array_equal(state.params['whiten']['kernel'], run.whitening_kernel(DATA.train.image))
    biases = [state.params['whiten']['bias'] for state in states]
    # Step 7 of 0.7 epochs of 10 steps is the first whose rate is 0, up to rounding; later changes are pulls of lookahead.
    changed = {number for number in range(1, STEPS + 1) if (abs(biases[number - 1] - biases[number]) > 1e-6).any()}
    assert set(range(1, 8)) <= changed <= {*range(1, 8), 9, 12, 15, 18, 20}


def test_the_kernel_is_that_of_the_first_training_images_and_the_seed_does_not_matter(monkeypatch):
    from resnet_jax.models.whitening import whitening_kernel

    monkeypatch.setattr(experiment, 'WHITENING_IMAGES', 24)
    images = np.asarray(normalize(DATA.train.image[:24], DATA.mean, DATA.std))
    for seed in (0, 1):
        run = create(seed=seed)
        kernel = run.whitening_kernel(DATA.train.image)
        np.testing.assert_allclose(kernel, whitening_kernel(images), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(initial_state(run).params['whiten']['kernel'], kernel)
    assert create(model='resnet8', model_kwargs={}).whitening_kernel(DATA.train.image) is None


def test_a_bias_that_is_never_trained_and_another_optimizer(monkeypatch):
    """A ResNet with the whitening stem and Adam, whose weight decay must not touch the frozen layer."""
    run = create(
        model='resnet8',
        model_kwargs={'stem': 'whitening', 'stage_sizes': (1,), 'num_filters': 4},
        optimizer='adamw',
        whitening_bias_epochs=0.0,
        weight_decay=0.5,
    )
    state = run.create_state()
    gradients = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = run.tx.update(gradients, state.opt_state, state.params)
    moved = {name: bool(leaf.any()) for name, leaf in leaves_by_name(updates).items()}
    assert {name for name, any_change in moved.items() if not any_change} == {'whiten/kernel', 'whiten/bias'}


@pytest.mark.slow
def test_stopped_and_resumed_is_bitwise_the_same_on_four_devices_in_bfloat16(tmp_path, monkeypatch):
    """Muon's and SGD's momentum, slow weights, the whitening kernel and the rates that depend on the step."""
    config = tiny.config(**{**RECIPE, 'dtype': 'bfloat16', 'crop_padding': 1, 'log_every': 1})

    class StopAt13(Callback):
        def on_step(self, step, metrics):
            if step == 13:
                os.kill(os.getpid(), signal.SIGTERM)

    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    result = train_and_evaluate(config, whole).result
    with monkeypatch.context() as patch:
        patch.setattr(dispatch.Pace, 'size', lambda pace, remaining: 1)
        with pytest.raises(Interrupted):
            train_and_evaluate(config, stopped, callbacks=[StopAt13()])
    assert checkpoint.latest(stopped / 'checkpoints').name == '13'
    again = train_and_evaluate(config, stopped).result
    assert {**again, 'seconds': 0} == {**result, 'seconds': 0}
    assert (stopped / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
    losses = [
        row['loss'] for row in map(json.loads, (whole / 'metrics.jsonl').read_text().splitlines()) if row['split'] == 'train'
    ]
    assert len(losses) == STEPS and np.mean(losses[-3:]) < 0.8 * losses[0]

    template = jax.eval_shape(create(dtype='bfloat16').create_state)
    states = [leaves_by_name(checkpoint.restore(path / 'checkpoints' / '20', template)) for path in (whole, stopped)]
    assert {'lookahead/batch_stats/layer1/bn1/mean', 'params/whiten/kernel'} <= states[0].keys()
    for name, leaf in states[0].items():
        np.testing.assert_array_equal(leaf, states[1][name], err_msg=name)
    trained = Classifier.load(whole)
    np.testing.assert_array_equal(trained.variables['params']['whiten']['kernel'], create().whitening_kernel(DATA.train.image))
