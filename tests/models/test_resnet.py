import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference

from resnet_jax.errors import ConfigError
from resnet_jax.models import BottleneckBlock, ResNet, create_model


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def initialise(model, images):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)


# Small networks of every form: ours, and the same in PyTorch.
TORCH_BLOCKS = {'basic': torch_reference.BasicBlock, 'bottleneck': torch_reference.Bottleneck}
PAIRS = {
    f'{block}-{stem}-{shortcut}': (
        create_model(
            'resnet50' if block == 'bottleneck' else 'resnet18',
            num_classes=7,
            stage_sizes=(1, 2),
            num_filters=6,
            stem=stem,
            shortcut=shortcut,
        ),
        functools.partial(torch_reference.ResNet, TORCH_BLOCKS[block], (1, 2), 6, stem, shortcut, 7),
    )
    for block in ('basic', 'bottleneck')
    for stem, shortcut in (('cifar', 'identity'), ('cifar', 'projection'), ('imagenet', 'projection'))
} | {
    'd2l': (
        create_model('d2l_resnet18', 7, stage_sizes=(2, 1, 1), num_filters=4),
        functools.partial(torch_reference.D2LResNet, ((2, 4), (1, 8), (1, 16)), 7),
    )
}


@pytest.fixture(params=PAIRS)
def pair(request):
    torch.manual_seed(0)
    model, make_reference = PAIRS[request.param]
    return model, torch_reference.randomise(make_reference())


def test_evaluation_logits_agree_with_torch(pair):
    model, reference = pair
    images = random_images(3, 18, 15, 3)  # even and odd: where paddings differ
    variables = torch_reference.flax_variables(reference)
    expected_variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, expected_variables)

    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    chex.assert_shape(logits, (3, 7))
    expected = torch_reference.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_training_forward_agrees_with_torch():
    model = create_model('resnet8', num_filters=4, shortcut='projection')
    torch.manual_seed(0)
    reference = torch_reference.randomise(torch_reference.ResNet(torch_reference.BasicBlock, (1, 1, 1), 4))
    before = torch_reference.flax_variables(reference)
    images = random_images(3, 8, 8, 3)
    with torch.no_grad():
        expected_logits = reference.train()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = torch_reference.flax_variables(reference)['batch_stats']
    logits, after = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))(before, images)
    assert np.abs(logits - expected_logits).max() < 1e-4 * np.abs(expected_logits).max()

    def unbiased(path, old, new):
        """PyTorch's running variance from ours: the new part is larger by n / (n - 1)."""
        names = [key.key for key in path]
        if names[-1] == 'mean':
            return new
        size = {'layer2_0': 4, 'layer3_0': 2}.get(names[0], 8)
        n = 3 * size * size
        return 0.9 * old + (new - 0.9 * old) * n / (n - 1)

    corrected = jax.tree_util.tree_map_with_path(unbiased, before['batch_stats'], after['batch_stats'])
    chex.assert_trees_all_close(corrected, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['basic-cifar-identity', 'bottleneck-imagenet-projection', 'd2l'])
def test_every_parameter_receives_a_gradient(name):
    model, make_reference = PAIRS[name]
    # On smaller images every 3x3 pool holds a positive value: bn1's bias is a mere shift, which the next BatchNorm undoes.
    images, labels = random_images(4, 32, 32, 3), np.arange(4)
    variables = torch_reference.flax_variables(torch_reference.randomise(make_reference()))

    @jax.jit
    @jax.grad
    def gradient(params):
        logits, _ = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1).mean()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables['params'])):
        place = jax.tree_util.keystr(path, simple=True, separator='/')
        assert np.isfinite(leaf).all(), place
        largest = np.abs(leaf).max()
        # BatchNorm takes the mean away, and with it D2L's biases before it: their gradient is zero up to rounding.
        if name == 'd2l' and place.endswith(('conv1/bias', 'conv2/bias')):
            assert largest < 1e-5, place
        else:
            assert largest > 1e-5, place


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


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 8, 8, 1), (1, 33, 20, 4)])
@pytest.mark.parametrize('name', ['resnet8', 'resnet50', 'd2l_resnet18'])
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
        ({'stem': 'CIFAR'}, "stem must be one of 'cifar', 'imagenet', 'd2l', not 'CIFAR'"),
        ({'shortcut': 'B'}, "shortcut must be one of 'projection', 'identity', not 'B'"),
        ({'num_classes': 0}, 'num_classes must be an integer of at least 1, not 0'),
        ({'num_classes': True}, 'num_classes must be an integer'),
        ({'num_filters': 1.5}, 'num_filters must be an integer'),
        ({'stage_sizes': ()}, 'stage_sizes must be a tuple'),
        ({'stage_sizes': 3}, 'stage_sizes must be a tuple'),
        ({'stage_sizes': (2, -1)}, 'each of stage_sizes must be an integer'),
        ({'dtype': jnp.float16}, 'dtype must be float32 or bfloat16'),
        ({'dtype': 'half a float'}, 'dtype must be float32 or bfloat16'),
        ({'act': 'relu'}, 'act must be a class or function'),
        ({'block_cls': 'basic'}, 'block_cls must be a class or function'),
        ({'axis_name': 0}, 'axis_name must be'),
    ],
)
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        ResNet(**{'stage_sizes': (1, 1), 'block_cls': BottleneckBlock, **kwargs})
    assert '\n' not in str(info.value)
