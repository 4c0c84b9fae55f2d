import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import torch_reference as T

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runs.checkpoint import leaves_by_name
from resnet_jax.runtime.devices import replicate
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.freezing import Frozen, scale_by_depth
from resnet_jax.training.program import TrainingProgram
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import kernel_paths, train_step

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS, DECAY = 20, 1e-3
SIZES = (1, 1)
DATA = tiny.dataset(train=48, channels=3)
# By name: fields of the config, and which layers of the network in PyTorch are frozen.
CASES = {
    'nothing': ({}, ()),
    'backbone': ({'freeze': 'backbone'}, ('conv1', 'bn1', 'layer1', 'layer2')),
    'stem and first stage': ({'freeze': 'conv1,bn1,layer1_*'}, ('conv1', 'bn1', 'layer1')),
    'all BatchNorm': ({'freeze': '*bn?,*/downsample_bn'}, ('bn',)),
    'later': ({'freeze': 'backbone', 'unfreeze_epochs': (2, 4)}, ('conv1', 'bn1', 'layer1', 'layer2')),
    'depth': ({'layer_decay': 0.5}, ()),
}


def config(**overrides):
    return tiny.checked(
        **{
            'model': 'resnet18',
            'model_kwargs': {'stage_sizes': SIZES, 'num_filters': 6},
            'num_epochs': 8,
            'weight_decay': DECAY,
            'decay_norm_and_bias': True,
            'schedule': 'constant',
            'warmup_epochs': 0.0,
            **overrides,
        }
    )


def batches():
    """Of 12 images each; three make an epoch of the tests."""
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        yield rng.normal(size=(12, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, 12)


def torch_network():
    torch.manual_seed(0)
    return T.randomise(T.ResNet(T.BasicBlock, SIZES, 6, num_classes=3))


def is_norm(name):
    return 'bn' in name or 'downsample.1' in name


def torch_path(case, make, rate):
    """Parameters and statistics after each step of PyTorch's own loop, as our trees."""
    overrides, frozen = CASES[case]
    module = torch_network()
    moving = {}

    def is_frozen(name):
        return is_norm(name) if frozen == ('bn',) else name.startswith(frozen) if frozen else False

    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
        moving[name] = not is_frozen(name)

    def rate_of(name):
        part = {'conv1': 0, 'bn1': 0, 'layer1': 1, 'layer2': 2, 'fc': 3}[name.split('.')[0]]
        return rate * overrides.get('layer_decay', 1.0) ** (3 - part)

    optimizer = make([{'params': [p], 'lr': rate_of(n)} for n, p in module.named_parameters() if moving[n]])
    later = {6: ('layer2',), 12: ('conv1', 'bn1', 'layer1')} if case == 'later' else {}
    for step, (images, labels) in enumerate(batches()):
        for start in later.get(step, ()):
            for name, parameter in module.named_parameters():
                if name.startswith(start):
                    moving[name] = True
                    parameter.requires_grad_(True)
                    optimizer.add_param_group({'params': [parameter], 'lr': rate})
        module.train()
        for name, layer in module.named_modules():
            if isinstance(layer, torch.nn.BatchNorm2d) and not moving[f'{name}.weight']:
                layer.eval()
        logits = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimizer.step()
        yield T.flax_variables(module)


def our_path(case, **overrides):
    """The same with our step, optimizer and phases, of an experiment with three steps in an epoch."""
    experiment = create_experiment(config(**CASES[case][0], **overrides), DATA.info)
    variables = T.flax_variables(torch_network())
    opt_state = experiment.tx.init(experiment.frozen.split(variables['params'])[0])
    state = TrainState(jnp.int32(0), **variables, opt_state=opt_state, ema={})

    def step_of(experiment):
        return jax.jit(
            functools.partial(train_step, model=experiment.model, tx=experiment.tx, frozen=experiment.frozen, axis_name=None)
        )

    run = step_of(experiment)
    for step, (images, labels) in enumerate(batches()):
        if (phase := experiment.phase_at(step)) != experiment.phase:
            experiment = experiment.in_phase(phase)
            state, run = experiment.continue_state(jax.device_get(state)), step_of(experiment)
        batch = {'image': images, 'label': np.eye(3, dtype=np.float32)[labels]}
        state, _ = run(state, batch, jax.random.key(0))
        yield jax.device_get(state.variables)


OPTIMIZERS = {
    'sgd': (functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=DECAY), 0.05),
    'adam': (functools.partial(torch.optim.Adam, weight_decay=DECAY), 0.002),
}
SLOW = ('nothing', 'backbone', 'all BatchNorm', 'depth')


@pytest.mark.parametrize(
    ('case', 'optimizer'),
    [
        *(pytest.param(case, 'sgd', marks=pytest.mark.slow if case in SLOW else ()) for case in CASES if case != 'later'),
        pytest.param('later', 'sgd', marks=pytest.mark.slow),
        pytest.param('later', 'adam', marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_as_torch(case, optimizer):
    """From the same weights and batches. Flax's running variance is biased, PyTorch's is not: the means are compared."""
    make, rate = OPTIMIZERS[optimizer]
    start, frozen = T.flax_variables(torch_network()), create_experiment(config(**CASES[case][0]), DATA.info).frozen
    for theirs, ours in zip(torch_path(case, make, rate), our_path(case, optimizer=optimizer, learning_rate=rate), strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours['params'], theirs['params'])
        flat = [leaves_by_name(tree['batch_stats']) for tree in (ours, theirs)]
        for name in flat[0]:
            if name.endswith('mean'):
                np.testing.assert_allclose(flat[0][name], flat[1][name], rtol=1e-5, atol=1e-5)
    ours, start = leaves_by_name(ours), leaves_by_name(start)
    still = {} if case == 'later' else frozen.names
    for name in start:
        moved = np.abs(ours[name] - start[name]).max()
        assert moved == 0 if name in still else moved > 1e-3, name
    for name in still:
        assert ours[name].tobytes() == start[name].tobytes()


def test_the_rate_falls_from_block_to_block_towards_the_image():
    """As the groups of timm's layer decay: the head at the whole rate, the stem at decay to the number of blocks and one."""
    model = create_model('resnet18')
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))['params']
    ones = jax.tree.map(lambda leaf: 1.0, params)
    tx = scale_by_depth(model, (32, 32, 3), 0.5)
    scaled, _ = tx.update(ones, tx.init(ones), ones)
    order = [['conv1', 'bn1'], *([f'layer{stage}_{index}'] for stage in (1, 2, 3, 4) for index in (0, 1)), ['fc']]
    for place, names in enumerate(order):
        assert {leaf for name in names for leaf in jax.tree.leaves(scaled[name])} == {0.5 ** (9 - place)}
    assert jax.tree.leaves(tx.init(ones)) == []


EVERYTHING = {
    'freeze': 'conv1,bn1,layer1_*',
    'ema_decay': 0.9,
    'lookahead_sync_period': 2,
    'gradient_accumulation_steps': 2,
    'clip_norm': 0.5,
    'log_gradient_norms': True,
    'learning_rate': 0.05,
    'optimizer': 'adamw',
}


@pytest.mark.slow
def test_what_is_frozen_is_the_same_to_the_bit_on_several_devices_and_has_no_optimizer_state():
    """With averages, which would change equal numbers by rounding, and a negative zero, to which adding zero gives zero."""
    experiment = create_experiment(config(batch_size=16, **EVERYTHING), DATA.info)
    state = experiment.create_state()
    state.params['conv1']['kernel'] = state.params['conv1']['kernel'].at[0, 0].set(-0.0)
    ema, slow = (jax.tree.map(jnp.copy, state.variables) for _ in range(2))
    state = replicate(state.replace(ema=ema, lookahead=slow))
    before = leaves_by_name(jax.device_get(state))
    after, metrics = TrainingProgram(experiment, DATA.train).run(state, 0, 3)
    after = leaves_by_name(jax.device_get(after))
    frozen = [name for name in before if any(f'{part}/' in name for part in ('conv1', 'bn1', 'layer1_0'))]
    frozen = [name for name in frozen if 'layer2_0' not in name]
    assert len(frozen) == 3 * (3 + 2 + 6 + 4) and not [name for name in frozen if name.startswith('opt_state')]
    assert [name for name in frozen if after[name].tobytes() != before[name].tobytes()] == []
    moving = [
        name for name in before if name.startswith(('params/layer2_0', 'params/fc', 'batch_stats/layer2', 'ema/params/fc'))
    ]
    assert len(moving) > 10 and not [name for name in moving if after[name].tobytes() == before[name].tobytes()]
    assert [name for name in before if name.startswith('opt_state') and 'layer2_0' in name]
    norms = metrics[0]['per_layer_grad_norms']  # in the order of kernel_paths
    names = kernel_paths(state.params)
    assert {name for name, norm in zip(names, norms, strict=True) if norm == 0} == {
        'conv1',
        'layer1_0/conv1',
        'layer1_0/conv2',
    }


def count_convolutions(freeze):
    """Of a training step: forward, and gradients with respect to kernels and inputs."""
    experiment = create_experiment(config(freeze=freeze), DATA.info)
    run = functools.partial(train_step, model=experiment.model, tx=experiment.tx, frozen=experiment.frozen, axis_name=None)
    batch = {'image': jnp.zeros((4, 8, 8, 3)), 'label': jnp.zeros((4, 3))}
    text = str(jax.make_jaxpr(run)(jax.eval_shape(experiment.create_state), batch, jax.random.key(0)))
    return tuple(text.count(f'= {name}[') for name in ('conv', 'conv_kernel_gradient', 'conv_input_gradient'))


def test_no_gradient_of_a_frozen_backbone_is_computed():
    """Six convolutions: the first, two in each of two blocks, and that of the second block's shortcut."""
    assert count_convolutions('') == (6, 6, 5)
    assert count_convolutions('backbone') == (6, 0, 0)
    assert count_convolutions('conv1,bn1,layer1_*') == (6, 3, 1)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (
            {'freeze': 'layr1_0'},
            r"freeze has 'layr1_0', which matches no layer; did you mean 'layer1_0'\?; .*: bn1, conv1, fc, ",
        ),
        ({'freeze': 'conv1,,*'}, 'freezes every parameter; expected some to be left'),
        ({'freeze': 'backbone', 'unfreeze_epochs': (1, 2, 3, 4)}, r'freezes 3 stages \(conv1, layer1_0, layer2_0\)'),
        ({'freeze': 'backbone', 'unfreeze_epochs': (8,)}, 'the run has 8 epochs; expected earlier ones'),
        ({'unfreeze_epochs': (2,)}, 'nothing is frozen; expected freeze with it'),
        ({'layer_decay': 0.5, 'optimizer': 'muon'}, 'expected layer_decay=1'),
    ],
)
def test_what_cannot_be_frozen(overrides, message):
    with pytest.raises(ConfigError, match=message):
        create_experiment(config(**overrides), DATA.info)


def test_a_batch_norm_of_a_network_of_ones_own_is_frozen_too(monkeypatch):
    tiny.register(monkeypatch, DATA)
    experiment = create_experiment(config(model='tiny', model_kwargs={}, freeze='bn'), DATA.info)
    assert experiment.frozen == Frozen(
        frozenset({'params/bn/scale', 'params/bn/bias', 'batch_stats/bn/mean', 'batch_stats/bn/var'})
    )
    state = experiment.create_state()
    with experiment.frozen.statistics():
        logits, updates = experiment.model.apply(
            state.variables,
            jnp.full((2, 8, 8, 3), 3.0),
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(0)},
        )
    jax.tree.map(np.testing.assert_array_equal, updates['batch_stats'], state.batch_stats)
    assert np.abs(logits).max() > 0.1  # by the statistics of the batch, whose images are equal, it would be 0


@pytest.mark.parametrize('optimizer', ['muon', 'adamw'])
def test_a_whitening_layer_and_every_optimizer_go_with_a_frozen_backbone(optimizer):
    options = {'model': 'speedrun94', 'model_kwargs': {'widths': (8,)}, 'optimizer': optimizer, 'head_learning_rate': 0.1}
    state = jax.eval_shape(create_experiment(config(**options, freeze='backbone'), DATA.info).create_state)
    assert {name.split('/')[-2] for name in leaves_by_name(state.opt_state) if name.endswith('/kernel')} == {'fc'}
