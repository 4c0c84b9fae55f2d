import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference
from sampling import sample

from resnet_jax.errors import ConfigError
from resnet_jax.models import BasicBlock, BottleneckBlock, D2LResNeXtBlock, PreActBlock, ResNet, available_models, create_model

pytestmark = pytest.mark.usefixtures('quick_compilation')


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def initialise(model, images):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)


T = torch_reference
SIZES = (1, 2)


def images_for(model, height, width):
    # Many images, for Winograd's form, and small ones: among many activations one is so near zero that rounding decides
    # whether ReLU passes it, and then gradients differ by 1e-3, PyTorch's own in float32 and float64 too.
    return random_images(8, 8, 6, 3) if model.num_filters == 64 else random_images(3, height, width, 3)


def small(name, **kwargs):
    return create_model(name, 7, stage_sizes=SIZES, **{'num_filters': 6, **kwargs})


def torch_resnet(block, *args, num_filters=6, **kwargs):
    return functools.partial(T.ResNet, block, SIZES, num_filters, *args, num_classes=7, **kwargs)


# A small network of every family: ours, and the same in PyTorch.
PAIRS = {
    'resnet20': (small('resnet20'), torch_resnet(T.BasicBlock, 'cifar', 'identity')),
    'resnet18': (small('resnet18'), torch_resnet(T.BasicBlock)),
    # With enough channels and images for Winograd's form of a convolution, which a CPU uses.
    'resnet18-64-filters': (small('resnet18', num_filters=64), torch_resnet(T.BasicBlock, num_filters=64)),
    'resnet18-imagenet': (small('resnet18', stem='imagenet'), torch_resnet(T.BasicBlock, 'imagenet')),
    'resnet50-identity': (small('resnet50', shortcut='identity'), torch_resnet(T.Bottleneck, 'cifar', 'identity')),
    'resnet50': (small('resnet50'), torch_resnet(T.Bottleneck)),
    'resnet50-imagenet': (small('resnet50', stem='imagenet'), torch_resnet(T.Bottleneck, 'imagenet')),
    'plain20': (small('plain20'), torch_resnet(T.BasicBlock, 'cifar', 'none')),
    'resnet50d': (small('resnet50d'), torch_resnet(T.Bottleneck, 'deep', 'average')),
    'seresnet18': (
        small('seresnet18', num_filters=12),
        torch_resnet(T.BasicBlock, 'imagenet', num_filters=12, se=True),
    ),
    'seresnet50': (small('seresnet50'), torch_resnet(T.Bottleneck, 'imagenet', se=True)),
    'wide_resnet50_2': (
        small('wide_resnet50_2'),
        torch_resnet(T.Bottleneck, 'imagenet', base_width=128),
    ),
    'resnext29_4x64d': (
        small('resnext29_4x64d'),
        torch_resnet(T.Bottleneck, groups=4),
    ),
    'resnext50_32x4d': (
        small('resnext50_32x4d', num_filters=16),
        torch_resnet(T.Bottleneck, 'imagenet', num_filters=16, groups=32, base_width=4),
    ),
    'preact_resnet18': (small('preact_resnet18'), functools.partial(T.PreActResNet, T.PreActBlock, SIZES, 6, num_classes=7)),
    'resnet164': (
        small('resnet164'),
        functools.partial(T.PreActResNet, T.PreActBottleneck, SIZES, 6, final_norm=True, num_classes=7),
    ),
    'wrn_16_4': (
        small('wrn_16_4', num_filters=8, stem_filters=4),
        functools.partial(T.PreActResNet, T.PreActBlock, SIZES, 8, 4, final_norm=True, num_classes=7),
    ),
    'd2l_resnet18': (
        create_model('d2l_resnet18', 7, stage_sizes=(2, 1, 1), num_filters=4),
        functools.partial(T.D2LResNet, ((2, 4), (1, 8), (1, 16)), 7),
    ),
    'd2l_resnet18_3conv': (
        small('d2l_resnet18_3conv'),
        functools.partial(T.D2LResNet, ((1, 6), (2, 12)), 7, T.ThreeConvResidual),
    ),
    'd2l_resnext26': (
        small('d2l_resnext26', num_filters=16),
        functools.partial(T.D2LResNet, ((1, 16), (2, 32)), 7, T.D2LResNeXtBlock),
    ),
}


@pytest.fixture(params=sample(PAIRS, 3))
def pair(request):
    torch.manual_seed(0)
    model, make_reference = PAIRS[request.param]
    return model, torch_reference.randomise(make_reference())


def test_evaluation_logits_agree_with_torch(pair):
    model, reference = pair
    images = images_for(model, 18, 15)  # even and odd: where paddings differ
    variables = torch_reference.flax_variables(reference)
    expected_variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, expected_variables)

    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    chex.assert_shape(logits, (len(images), 7))
    expected = torch_reference.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def training_step(model, variables, images, labels):
    """Loss, gradients and new batch statistics."""

    def loss_fn(params):
        logits, new = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1).mean(), new['batch_stats']

    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, batch_stats), gradients = step(variables['params'])
    return loss, gradients, batch_stats


def test_training_step_agrees_with_torch(pair):
    model, reference = pair
    # On smaller images every 3x3 pool holds a positive value: bn1's bias is a mere shift, which the next BatchNorm undoes.
    images = images_for(model, 32, 32)
    labels = np.array([0, 3, 6, 1, 5, 2, 4, 0][: len(images)])
    before = torch_reference.flax_variables(reference)
    loss, gradients, after = training_step(model, before, images, labels)
    expected_loss, expected_gradients, expected_stats, seen = torch_reference.torch_step(reference, images, labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-3)

    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradients))

    def check_gradient(path, actual, expected):
        # Besides, rounding: a bias before a BatchNorm has a gradient of zero.
        tolerance = 1e-3 * np.abs(expected).max() + 1e-6 * largest
        assert np.abs(actual - expected).max() < tolerance, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check_gradient, gradients, expected_gradients)

    check_every_parameter_receives_a_gradient(gradients)

    def unbiased(path, old, new, n):
        """PyTorch's running variance from ours: the new part is larger by n / (n - 1)."""
        return new if path[-1].key == 'mean' else 0.9 * old + (new - 0.9 * old) * n / (n - 1)

    corrected = jax.tree_util.tree_map_with_path(unbiased, before['batch_stats'], after, seen)
    chex.assert_trees_all_close(corrected, expected_stats, rtol=1e-3, atol=1e-5)


def check_every_parameter_receives_a_gradient(gradients):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        place = jax.tree_util.keystr(path, simple=True, separator='/')
        assert np.isfinite(leaf).all(), place
        largest = np.abs(leaf).max()
        # BatchNorm takes the mean away, and with it D2L's biases before it: their gradient is zero up to rounding.
        *parents, layer, kind = (key.key for key in path)
        siblings = functools.reduce(lambda tree, key: tree[key], parents, gradients)
        if kind == 'bias' and 'conv' in layer and layer.replace('conv', 'bn') in siblings:
            assert largest < 1e-5, place
        else:
            assert largest > 1e-7, place


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in available_models() if isinstance(create_model(name), ResNet)])
def test_every_parameter_of_the_whole_network_receives_a_gradient(name):
    model = create_model(name)
    # On smaller images every 3x3 pool holds a positive value: bn1's bias is a mere shift, which the next BatchNorm undoes.
    images = random_images(4, 64, 64, 3)
    # XLA takes a quarter of an hour and 10 GB to compile 600 blocks; one operation after the other they take a minute.
    with jax.disable_jit(sum(model.stage_sizes) > 50):
        _, gradients, _ = training_step(model, initialise(model, images), images, np.arange(4))
    check_every_parameter_receives_a_gradient(gradients)


@pytest.mark.slow
def test_stochastic_depth_skips_whole_examples():
    images = random_images(200, 4, 4, 3)
    plain = create_model('resnet8', stage_sizes=(2,), num_filters=4)
    model = plain.clone(stochastic_depth=0.5)
    variables = initialise(plain, images)
    chex.assert_trees_all_equal_shapes(initialise(model, images), variables)
    chex.assert_trees_all_equal(  # all blocks in evaluation
        model.apply(variables, images, train=False), plain.apply(variables, images, train=False)
    )
    options = {'train': True, 'rngs': {'dropout': jax.random.key(0)}, 'mutable': ['batch_stats', 'intermediates']}
    _, state = model.apply(
        variables, images, **options, capture_intermediates=lambda module, _: module.name in ('layer1_0', 'layer1_1')
    )
    stem, first, second = (state['intermediates'][name] for name in ('stem', 'layer1_0', 'layer1_1'))
    # A skipped block leaves its input, which is not negative. Rates are 0.25 and 0.5.
    for before, after, rate in ((stem, first['__call__'][0], 0.25), (first['__call__'][0], second['__call__'][0], 0.5)):
        skipped = (before == after).all((1, 2, 3)).mean()
        assert abs(skipped - rate) < 0.1


@pytest.mark.slow
def test_dropout_of_a_wide_resnet():
    images = random_images(2, 8, 8, 3)
    plain = create_model('wrn_16_4', stage_sizes=(1,), num_filters=8)
    model = plain.clone(dropout=0.3)
    variables = initialise(plain, images)
    np.testing.assert_array_equal(model.apply(variables, images, train=False), plain.apply(variables, images, train=False))
    apply = functools.partial(model.apply, variables, images, train=True, mutable=['batch_stats'])
    first, again, other = (apply(rngs={'dropout': jax.random.key(seed)})[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize('dtype', [jnp.bfloat16, 'bfloat16', np.dtype('float32')])
def test_logits_parameters_and_statistics_are_float32(dtype):
    model = create_model('resnet8', dtype=dtype)
    images = jnp.zeros((2, 8, 8, 1), jnp.bfloat16)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    logits, updates = jax.eval_shape(functools.partial(model.apply, train=True, mutable=['batch_stats']), variables, images)
    for leaf in jax.tree.leaves((variables, logits, updates)):
        assert leaf.dtype == jnp.float32


def test_bfloat16_is_close_to_float32_and_computes_in_bfloat16():
    images = random_images(2, 8, 8, 3)
    model = create_model('resnet8', stage_sizes=(1,))
    variables = initialise(model, images)
    model_bf16 = model.clone(dtype=jnp.bfloat16)
    apply_bf16 = functools.partial(model_bf16.apply, train=False, capture_intermediates=True)
    logits, intermediates = jax.jit(apply_bf16)(variables, images)
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    chex.assert_trees_all_close(logits, expected, atol=0.05)
    block = intermediates['intermediates']['layer1_0']
    chex.assert_type([block['conv1']['__call__'][0], block['bn1']['__call__'][0]], jnp.bfloat16)


def test_batch_statistics_change_in_training_only():
    model = create_model('resnet8', stage_sizes=(1,), num_filters=4)
    images = random_images(2, 8, 8, 3)
    variables = initialise(model, images)
    apply = jax.jit(functools.partial(model.apply, mutable=['batch_stats']), static_argnames='train')
    _, evaluated = apply(variables, images, train=False)
    chex.assert_trees_all_equal(evaluated['batch_stats'], variables['batch_stats'])
    _, trained = apply(variables, images, train=True)
    for before, after in zip(*map(jax.tree.leaves, (variables['batch_stats'], trained['batch_stats'])), strict=True):
        assert (before != after).any()


def test_axis_name_makes_the_statistics_those_of_the_whole_batch():
    images = random_images(4, 8, 8, 3)
    model = create_model('resnet8', stage_sizes=(1,), num_filters=4)
    variables = initialise(model, images)
    _, whole = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))(variables, images)

    model = create_model('resnet8', stage_sizes=(1,), num_filters=4, axis_name='batch')
    apply = functools.partial(model.apply, variables, train=True, mutable=['batch_stats'])
    _, parts = jax.jit(jax.vmap(apply, axis_name='batch'))(images.reshape(2, 2, 8, 8, 3))
    for part in range(2):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=part: x[i], parts), whole, rtol=1e-4, atol=1e-5)


def test_initialisation():
    params = initialise(create_model('d2l_resnet18', num_classes=500, stage_sizes=(1,)), jnp.zeros((1, 2, 2, 3)))['params']
    kernel = params['layer1_0']['conv1']['kernel']  # 3x3, 64 to 64
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert np.abs(kernel).max() > 3 * np.std(kernel)  # not truncated
    np.testing.assert_allclose(np.std(params['conv1']['kernel']), np.sqrt(2 / (49 * 64)), rtol=0.03)  # fan_out, not fan_in
    limit = 1 / np.sqrt(64)
    assert 0.99 * limit < np.abs(params['fc']['kernel']).max() <= limit
    chex.assert_trees_all_equal(params['fc']['bias'], jnp.zeros(500))
    chex.assert_trees_all_equal(params['layer1_0']['conv1']['bias'], jnp.zeros(64))


def test_initialisation_after_glorot():
    model = create_model('d2l_resnet18', kernel_init='xavier_uniform', stage_sizes=(1, 1))
    kernel = initialise(model, jnp.zeros((1, 2, 2, 3)))['params']['layer2_0']['conv1']['kernel']  # 3x3, 64 to 128
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64 + 9 * 128)), rtol=0.01)
    assert np.abs(kernel).max() <= np.sqrt(6 / (9 * 64 + 9 * 128))


def test_without_batch_norm_it_is_torch_s_with_biases_in_its_place():
    reference = T.ResNet(T.BasicBlock, SIZES, 6, num_classes=7)
    for module in list(reference.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
            elif isinstance(child, torch.nn.Conv2d):
                child.bias = torch.nn.Parameter(torch.linspace(-0.5, 0.5, child.out_channels))
    model, images = small('resnet18', norm='none'), random_images(3, 18, 15, 3)
    variables = torch_reference.flax_variables(reference)
    assert jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images).keys() == {'params'}
    logits = jax.jit(functools.partial(model.apply, train=True))(variables, images)
    expected = torch_reference.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 8, 8, 1), (1, 33, 20, 4)])
@pytest.mark.parametrize('name', ['resnet8', 'resnet50', 'd2l_resnet18', 'resnet18d', 'seresnet18', 'preact_resnet18'])
def test_any_image_size(name, shape):
    model = create_model(name)
    logits, _ = jax.eval_shape(functools.partial(model.init_with_output, train=False), jax.random.key(0), jnp.zeros(shape))
    chex.assert_shape(logits, (shape[0], 10))


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (jnp.zeros((8, 8, 1)), r'\[batch, height, width, channels\], not \(8, 8, 1\)'),
        (jnp.zeros((1, 8, 8, 3), jnp.uint8), 'floating-point numbers, not uint8'),
        (jnp.zeros((1, 0, 8, 3)), '0x8 pixels are too small'),
    ],
)
def test_unusable_images_are_refused(images, message):
    with pytest.raises(ConfigError, match=message):
        create_model('resnet8').init(jax.random.key(0), images, train=False)


def test_another_block_class():
    class PlainBlock(nn.Module):
        """One convolution, no shortcut."""

        filters: int
        strides: int
        conv: object
        norm: object
        act: object
        shortcut: object

        @nn.compact
        def __call__(self, x):
            return self.act(self.norm(name='bn1')(self.conv(self.filters, 3, self.strides, name='conv1')(x)))

    model = ResNet((1, 1), PlainBlock, num_filters=4, act=nn.tanh)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert set(variables['params']['layer2_0']) == {'bn1', 'conv1'}


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'stem': 'CIFAR'}, "stem must be one of 'cifar', 'imagenet', 'd2l', 'deep', 'whitening', not 'CIFAR'"),
        ({'shortcut': 'B'}, "shortcut must be one of 'projection', 'identity', 'average', 'none', not 'B'"),
        ({'num_classes': 0}, 'num_classes must be an integer of at least 1, not 0'),
        ({'num_classes': True}, 'num_classes must be an integer'),
        ({'num_filters': 1.5}, 'num_filters must be an integer'),
        ({'stage_sizes': ()}, 'stage_sizes must be a tuple'),
        ({'stage_sizes': 3}, 'stage_sizes must be a tuple'),
        ({'stage_sizes': (2, -1)}, 'each of stage_sizes must be an integer'),
        ({'dtype': jnp.float16}, 'dtype must be float32, bfloat16 or float64'),
        ({'dtype': 'half a float'}, 'dtype must be float32, bfloat16 or float64'),
        ({'act': 'relu'}, 'act must be a class or function'),
        ({'block_cls': 'basic'}, 'block_cls must be a class or function'),
        ({'axis_name': 0}, 'axis_name must be'),
        ({'stem_filters': 0}, 'stem_filters must be an integer'),
        ({'norm': None}, "norm must be one of 'batch', 'none', not None"),
        ({'kernel_init': 'glorot'}, "kernel_init must be one of 'he_normal', 'xavier_uniform'"),
        ({'stochastic_depth': 1}, 'stochastic_depth must be a share from 0 to below 1, not 1'),
        ({'dropout': -0.1}, 'dropout must be a share'),
        # combinations
        ({'dropout': 0.3}, 'dropout is only in pre-activation blocks'),
        ({'block_cls': PreActBlock, 'stem': 'imagenet'}, "a pre-activation block needs stem='cifar', not 'imagenet'"),
        ({'stem': 'deep', 'num_filters': 5}, "stem='deep' needs an even number"),
        ({'stochastic_depth': 0.5, 'shortcut': 'none'}, "shortcut must not be 'none'"),
        ({'block_cls': lambda *args: None, 'squeeze_excite': True}, "a block_cls with the field 'branch'"),
    ],
)
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        ResNet(**{'stage_sizes': (1, 1), 'block_cls': BottleneckBlock, **kwargs})
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'block_cls': BasicBlock, 'stem_filters': 8, 'shortcut': 'identity'}, 'from 8 to 4 channels'),
        ({'block_cls': functools.partial(BottleneckBlock, base_width=8)}, 'a base_width of 8 leaves no channels'),
        ({'block_cls': functools.partial(BottleneckBlock, groups=0)}, 'groups must be an integer of at least 1'),
        ({'block_cls': D2LResNeXtBlock}, '4 filters do not divide into groups of 16'),
    ],
)
def test_blocks_that_do_not_fit_are_refused(kwargs, message):
    model = ResNet(**{'stage_sizes': (1,), 'num_filters': 4, **kwargs})
    with pytest.raises(ConfigError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False)
