import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch_speedrun import Muon

from resnet_jax.errors import ConfigError
from resnet_jax.training.optimizer import create_optimizer, create_schedule, kernels_only, parameter_groups

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS, RATE, DECAY = 20, 0.05, 0.03


def parameters():
    rng = np.random.default_rng(0)
    return {
        'conv': {'kernel': rng.normal(size=(3, 3, 2, 4)).astype(np.float32)},
        'bn': {'scale': rng.normal(size=4).astype(np.float32), 'bias': rng.normal(size=4).astype(np.float32)},
        'fc': {'kernel': rng.normal(size=(4, 3)).astype(np.float32), 'bias': rng.normal(size=3).astype(np.float32)},
    }


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), parameters())


def optax_path(tx, steps=STEPS):
    params = jax.tree.map(jnp.asarray, parameters())
    update = jax.jit(tx.update)
    opt_state, path = tx.init(params), []
    for step in range(steps):
        updates, opt_state = update(gradients(step), opt_state, params)
        params = optax.apply_updates(params, updates)
        path.append(jax.device_get(params))
    return path


def torch_path(make, weight_decay, decay_norm_and_bias, schedule=lambda step: RATE, clip_norm=0.0, steps=STEPS):
    leaves = [torch.tensor(leaf, requires_grad=True) for leaf in jax.tree.leaves(parameters())]
    groups = [{'params': [p], 'weight_decay': weight_decay if decay_norm_and_bias or p.ndim > 1 else 0.0} for p in leaves]
    optimizer, path = make(groups), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = schedule(step)
        for leaf, gradient in zip(leaves, jax.tree.leaves(gradients(step)), strict=True):
            leaf.grad = torch.tensor(gradient)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        optimizer.step()
        path.append(jax.tree.unflatten(jax.tree.structure(parameters()), [p.detach().numpy().copy() for p in leaves]))
    return path


def assert_same(actual, expected):
    """At every step and for every parameter, to float32 rounding: 1e-5 of values of about 1."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize('decay_norm_and_bias', [False, True])
@pytest.mark.parametrize(
    ('name', 'options', 'make'),
    [
        ('sgd', {'momentum': 0.0}, lambda groups: torch.optim.SGD(groups, RATE)),
        ('sgd', {'momentum': 0.9}, lambda groups: torch.optim.SGD(groups, RATE, momentum=0.9)),
        (
            'sgd',
            {'momentum': 0.9, 'nesterov': True},
            lambda groups: torch.optim.SGD(groups, RATE, momentum=0.9, nesterov=True),
        ),
        ('adam', {}, lambda groups: torch.optim.Adam(groups, RATE)),
        ('adamw', {}, lambda groups: torch.optim.AdamW(groups, RATE)),
    ],
)
def test_twenty_steps_as_torch(name, options, make, decay_norm_and_bias):
    tx = create_optimizer(name, lambda step: RATE, weight_decay=DECAY, decay_norm_and_bias=decay_norm_and_bias, **options)
    assert_same(optax_path(tx), torch_path(make, DECAY, decay_norm_and_bias))


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_no_weight_decay_as_torch(name):
    make = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
    tx = create_optimizer(name, lambda step: RATE, momentum=0.0)
    assert_same(optax_path(tx, 5), torch_path(make, 0.0, False, steps=5))


def test_the_rate_follows_the_schedule_from_step_0():
    schedule = create_schedule('cosine', peak=0.1, total_steps=STEPS, warmup_steps=3)
    tx = create_optimizer('sgd', schedule, weight_decay=DECAY, momentum=0.9, nesterov=True)
    make = functools.partial(torch.optim.SGD, lr=RATE, momentum=0.9, nesterov=True)
    assert_same(optax_path(tx), torch_path(make, DECAY, False, schedule=lambda step: float(schedule(step))))


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
@pytest.mark.parametrize('clip_norm', [1.0, 100.0])
def test_clipping_as_torch(name, clip_norm):
    """Of the gradient alone, before the weight decay; a norm below the limit (here about 9.5) is left as it is."""
    norms = [optax.tree.norm(gradients(step)) for step in range(5)]
    assert all(1.0 < norm < 100.0 for norm in norms)
    make = {'sgd': functools.partial(torch.optim.SGD, momentum=0.9), 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
    tx = create_optimizer(name, lambda step: RATE, weight_decay=DECAY, clip_norm=clip_norm)
    assert_same(optax_path(tx, 5), torch_path(make[name], DECAY, False, clip_norm=clip_norm, steps=5))


def test_the_mask_takes_kernels_and_leaves_norms_and_biases():
    assert kernels_only(parameters()) == {
        'conv': {'kernel': True},
        'bn': {'scale': False, 'bias': False},
        'fc': {'kernel': True, 'bias': False},
    }


def test_groups():
    params = {**parameters(), 'whiten': {'kernel': np.zeros((2, 2, 3, 24)), 'bias': np.zeros(24)}}
    assert parameter_groups(params) == {
        'conv': {'kernel': 'kernel'},
        'bn': {'scale': 'bias', 'bias': 'bias'},
        'fc': {'kernel': 'head', 'bias': 'bias'},
        'whiten': {'kernel': 'whitening_kernel', 'bias': 'whitening_bias'},
    }


def scaled_torch_path(make, scales, decay, steps=STEPS, muon=None):
    """Each group with its own rate, and the weight decay that makes it lose as much as the others."""
    tree = parameters()
    groups, leaves = (
        jax.tree.leaves(parameter_groups(tree)),
        [torch.tensor(x, requires_grad=True) for x in jax.tree.leaves(tree)],
    )
    options = [
        {'params': [leaf], 'lr': RATE * scales.get(group, 1.0), 'weight_decay': decay / scales.get(group, 1.0)}
        for group, leaf in zip(groups, leaves, strict=True)
        if muon is None or group != 'kernel'
    ]
    optimizers, path = [make(options)], []
    kernels = [leaf for group, leaf in zip(groups, leaves, strict=True) if group == 'kernel']
    if muon is not None:  # PyTorch's layout
        transposed = [kernel.detach().permute(3, 2, 0, 1).clone().requires_grad_() for kernel in kernels]
        optimizers.append(muon(transposed))
    for step in range(steps):
        for leaf, gradient in zip(leaves, jax.tree.leaves(gradients(step)), strict=True):
            leaf.grad = torch.tensor(gradient)
        if muon is not None:
            for kernel, other in zip(kernels, transposed, strict=True):
                other.grad = kernel.grad.permute(3, 2, 0, 1)
        for optimizer in optimizers:
            optimizer.step()
        if muon is not None:
            for kernel, other in zip(kernels, transposed, strict=True):
                kernel.data = other.detach().permute(2, 3, 1, 0).clone()
        path.append(jax.tree.unflatten(jax.tree.structure(tree), [p.detach().numpy().copy() for p in leaves]))
    return path


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_rates_of_their_own_as_torch(name):
    make = {'sgd': functools.partial(torch.optim.SGD, momentum=0.9), 'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[name]
    scales = {'bias': 4.0, 'head': 0.5}
    tx = create_optimizer(name, lambda step: RATE, weight_decay=DECAY, decay_norm_and_bias=True, bias_scale=4.0, head_scale=0.5)
    assert_same(optax_path(tx, 8), scaled_torch_path(make, scales, DECAY, 8))


def test_muon_as_torch():
    """Muon for the kernel of the convolution, without weight decay, and SGD with a momentum of its own for the rest."""
    tx = create_optimizer(
        'muon',
        lambda step: RATE,
        weight_decay=DECAY,
        decay_norm_and_bias=True,
        momentum=0.8,
        nesterov=True,
        bias_scale=2.0,
        head_scale=10.0,
        muon_momentum=0.6,
        muon_steps=4,
    )
    sgd = functools.partial(torch.optim.SGD, momentum=0.8, nesterov=True)
    muon = functools.partial(Muon, lr=RATE, momentum=0.6, nesterov=True, steps=4)
    assert_same(optax_path(tx, 8), scaled_torch_path(sgd, {'bias': 2.0, 'head': 10.0}, DECAY, 8, muon))


def test_a_recipe_without_new_fields_has_the_state_it_always_had():
    """So that the checkpoints of older runs can be read."""
    for name in ('sgd', 'adam', 'adamw'):
        state = create_optimizer(name, lambda step: RATE, weight_decay=DECAY).init(parameters())
        names = {
            jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree_util.tree_leaves_with_path(state)
        }
        assert f'{NAMES_OF_MOMENTUM[name]}/conv/kernel' in names


NAMES_OF_MOMENTUM = {'sgd': '1/0/trace', 'adam': '1/0/mu', 'adamw': '0/0/mu'}


def test_clipping_is_of_all_groups_together():
    tx = create_optimizer('sgd', lambda step: 1.0, momentum=0.0, clip_norm=0.5, bias_scale=2.0)
    updates, _ = tx.update(gradients(0), tx.init(parameters()), parameters())
    norm = math.sqrt(sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(gradients(0))))
    np.testing.assert_allclose(updates['conv']['kernel'], -0.5 / norm * gradients(0)['conv']['kernel'], rtol=1e-5)
    np.testing.assert_allclose(updates['bn']['bias'], -2 * 0.5 / norm * gradients(0)['bn']['bias'], rtol=1e-5)


def test_unknown_optimizer():
    with pytest.raises(ConfigError, match=r"unknown optimizer 'rmsprop'; expected one of sgd, adam, adamw"):
        create_optimizer('rmsprop', lambda step: RATE)


def table(name, total_steps, **kwargs):
    schedule = create_schedule(name, peak=0.4, total_steps=total_steps, **kwargs)
    return [float(schedule(step)) for step in range(total_steps + 1)]


HALF = 0.2 * math.sqrt(0.5)  # a cosine's quarter point: 0.4 * (1 + cos(pi / 4)) / 2 = 0.2 + this


@pytest.mark.parametrize(
    ('name', 'kwargs', 'expected'),
    [
        ('constant', {}, [0.4] * 9),
        ('constant', {'warmup_steps': 4}, [0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]),
        ('step', {'milestones': (0.5, 0.75)}, [0.4, 0.4, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004, 0.004]),
        (
            'step',
            {'milestones': (0.5, 0.75), 'warmup_steps': 2, 'step_factor': 0.5},
            [0, 0.2, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.1],
        ),
        ('step', {'milestones': (0.5, 0.51), 'step_factor': 0.5}, [0.4, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ('step', {'milestones': ()}, [0.4] * 9),
        ('linear', {}, [0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0]),
        ('linear', {'warmup_steps': 4}, [0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1, 0]),
    ],
)
def test_schedules_by_hand(name, kwargs, expected):
    np.testing.assert_allclose(table(name, 8, **kwargs), expected, rtol=1e-6, atol=1e-7)


def test_cosine_by_hand():
    np.testing.assert_allclose(table('cosine', 4), [0.4, 0.2 + HALF, 0.2, 0.2 - HALF, 0], rtol=1e-5, atol=1e-7)
    warm = table('cosine', 8, warmup_steps=4)
    np.testing.assert_allclose(warm, [0, 0.1, 0.2, 0.3, 0.4, 0.2 + HALF, 0.2, 0.2 - HALF, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('total_steps', [100, 1000])
def test_one_cycle_as_torch(total_steps):
    """optax rises over 0.3 n steps where PyTorch takes 0.3 n - 1: the fall is the same, one step later."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=total_steps)
    expected = []
    for _ in range(total_steps):
        expected.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        if len(expected) < total_steps:
            reference.step()
    actual = np.array(table('one_cycle', total_steps))
    peak = 3 * total_steps // 10
    assert actual[0] == pytest.approx(0.4 / 25)
    assert actual[peak] == pytest.approx(0.4) and actual[peak] == actual.max()
    assert actual[-1] == pytest.approx(0.4 / 250_000, abs=1e-7)
    np.testing.assert_allclose(actual[peak:], expected[peak - 1 :], atol=1e-6)
    # In all, never further apart than the largest change from one step to the next: half a period of a cosine per rise.
    largest_change = math.pi / 2 * (0.4 - 0.4 / 25) / (peak - 1)
    assert np.abs(actual[:-1] - expected).max() < largest_change


@pytest.mark.parametrize('total_steps', [1, 2, 3, 7])
@pytest.mark.parametrize('name', ['constant', 'cosine', 'linear', 'one_cycle', 'step'])
def test_short_runs_have_finite_positive_rates(name, total_steps):
    rates = table(name, total_steps)[:-1]
    assert np.isfinite(rates).all() and 0 < max(rates) <= 0.4 * (1 + 1e-6)


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('square', {}, r"unknown schedule 'square'; expected one of cosine, linear, one_cycle, step, constant"),
        ('linear', {'warmup_steps': 8}, r'the warm-up takes 8 steps and the whole run 8; lower warmup_epochs'),
        ('cosine', {'warmup_steps': 8}, r'the warm-up takes 8 steps and the whole run 8; lower warmup_epochs'),
        ('constant', {'warmup_steps': 9}, r'the warm-up takes 9 steps'),
        ('step', {'warmup_steps': 5}, r'a milestone of \[0.5, 0.75\] lies in the warm-up'),
    ],
)
def test_errors(name, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        create_schedule(name, peak=0.4, total_steps=8, **kwargs)


def test_one_cycle_has_its_own_warm_up():
    assert table('one_cycle', 8, warmup_steps=100) == table('one_cycle', 8)
