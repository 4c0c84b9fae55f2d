import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as T

from resnet_jax.errors import ConfigError
from resnet_jax.models import SpeedrunNet, create_model, features

pytestmark = pytest.mark.usefixtures('quick_compilation')

SMALL = {
    'speedrun94': {'widths': (26, 12, 12)},
    'speedrun96': {'widths': (8, 12)},
}
# With enough channels and images for Winograd's form of a convolution, which a CPU uses.
CASES = [*SMALL.items(), ('speedrun94', {'widths': (64, 66)})]


@pytest.fixture(params=CASES, ids=lambda case: f'{case[0]}-{case[1]["widths"]}')
def pair(request):
    name, kwargs = request.param
    torch.manual_seed(0)
    reference = T.NETWORKS[name](num_classes=7, **kwargs)
    return create_model(name, 7, **kwargs), T.randomise(reference)


def initialise(model, images):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_evaluation_logits_agree_with_torch(pair):
    model, reference = pair
    images = random_images(8, 18, 15, 3)  # even and odd: where a pool leaves a row out
    variables = T.flax_variables(reference)
    expected_variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, expected_variables)
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    chex.assert_shape(logits, (8, 7))
    expected = T.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope='module')
def stepped():
    """Loss, gradients and statistics of a training step, ours and PyTorch's, of speedrun96, which has every layer."""
    torch.manual_seed(0)
    reference, model = (
        T.randomise(T.NETWORKS['speedrun96'](**SMALL['speedrun96'])),
        create_model('speedrun96', **SMALL['speedrun96']),
    )
    images, labels = random_images(8, 16, 16, 3), np.arange(8)
    variables = T.flax_variables(reference)

    def loss_fn(params):
        logits, new = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1).mean(), new['batch_stats']

    (loss, stats), gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables['params'])
    return (loss, gradients, stats), T.torch_step(reference, images, labels), variables


def test_training_loss_and_gradients_agree_with_torch(stepped):
    (loss, gradients, _), (expected_loss, expected, _, _), _ = stepped
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    chex.assert_trees_all_equal_shapes(gradients, expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        reference = functools.reduce(lambda tree, key: tree[key.key], path, expected)
        assert np.abs(leaf - reference).max() <= 1e-3 * np.abs(reference).max() + 1e-6 * largest, name
        assert leaf.any() == (name != 'whiten/kernel'), name


def test_running_statistics_agree_with_torch(stepped):
    """The momentum is the share kept, and PyTorch's new variance is larger by n / (n - 1)."""
    (_, _, stats), (_, _, expected, seen), before = stepped

    def unbiased(path, old, new, n):
        return new if path[-1].key == 'mean' else 0.9 * old + (new - 0.9 * old) * n / (n - 1)

    corrected = jax.tree_util.tree_map_with_path(unbiased, before['batch_stats'], stats, seen)
    chex.assert_trees_all_close(corrected, expected, rtol=1e-4, atol=1e-5)


def test_how_long_the_statistics_are_remembered():
    """By hand: after a step on images whose mean is m, a mean that was 0 is (1 - momentum) * m."""
    images, shares = jnp.asarray(random_images(4, 9, 9, 3)), []
    for name, keep in (('speedrun94', 0.6), ('speedrun96', 0.9), ('speedrun94', 0.25)):
        model = create_model(name, widths=(4,), batch_norm_momentum=keep)
        variables = initialise(model, images)
        _, new = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))(variables, images)
        shares.append(np.asarray(new['batch_stats']['layer1']['bn1']['mean'] / (1 - keep)))
        assert create_model(name).batch_norm_momentum == (keep if keep > 0.5 else 0.6)
    chex.assert_trees_all_close(shares[0], shares[1], shares[2], rtol=1e-4)


def test_initialisation():
    params = initialise(create_model('speedrun94'), jnp.zeros((1, 9, 9, 3)))['params']
    first, last = params['layer1']['conv1']['kernel'], params['layer3']['conv2']['kernel']
    identity = np.zeros((3, 3, 256, 256), np.float32)
    identity[1, 1] = np.eye(256)
    np.testing.assert_array_equal(last, identity)
    np.testing.assert_array_equal(first[..., :24], identity[:, :, :24, :24])  # 24 inputs, 64 outputs
    rest, limit = np.asarray(first[..., 24:]), 1 / np.sqrt(9 * 24)
    assert 0.99 * limit < np.abs(rest).max() <= limit and abs(rest.mean()) < 0.05 * limit
    np.testing.assert_allclose(rest.std(), limit / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.std(params['fc']['kernel']), 1, rtol=0.05)
    assert params['fc'].keys() == {'kernel'} and params['layer1']['bn1'].keys() == {'bias'}


def test_the_head_of_speedrun96_is_that_of_its_source():
    """There a kernel uniform within 1 / sqrt(512), and logits divided by 9; here variance 1 and a smaller factor."""
    params = initialise(create_model('speedrun96'), jnp.zeros((1, 9, 9, 3)))['params']
    effective = np.asarray(params['fc']['kernel']) * create_model('speedrun96').logit_scale * 9
    limit = 1 / np.sqrt(512)
    assert 0.99 * limit < np.abs(effective).max() <= limit * (1 + 1e-6)


def test_features():
    images = jnp.asarray(random_images(2, 32, 32, 3))
    model = create_model('speedrun94', widths=(8, 12, 16))
    variables = initialise(model, images)
    actual = jax.jit(functools.partial(features, model))(variables, images)
    shapes = {name: value.shape[1:] for name, value in actual.items()}
    assert shapes == {
        'stem': (31, 31, 24),
        'stage1': (15, 15, 8),
        'stage2': (7, 7, 12),
        'stage3': (3, 3, 16),
        'pooled': (16,),
        'logits': (10,),
    }
    np.testing.assert_array_equal(actual['pooled'], actual['stage3'].max((1, 2)))
    np.testing.assert_allclose(actual['logits'], actual['pooled'] @ variables['params']['fc']['kernel'] / 256, rtol=1e-5)


def test_bfloat16_is_close_to_float32_and_computes_in_bfloat16():
    images = jnp.asarray(random_images(2, 17, 17, 3))
    model = create_model('speedrun96', widths=(8, 12))
    variables = initialise(model, images)
    apply = functools.partial(model.clone(dtype=jnp.bfloat16).apply, train=False, capture_intermediates=True)
    logits, kept = jax.jit(apply)(variables, images)
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, atol=0.03 * np.abs(expected).max())
    group = kept['intermediates']['layer1']
    chex.assert_type([group['conv1']['__call__'][0], group['bn3']['__call__'][0]], jnp.bfloat16)
    chex.assert_type([logits, *jax.tree.leaves(variables)], jnp.float32)


def test_no_gradient_is_a_scatter_and_bfloat16_convolutions_stay_so_on_a_gpu():
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.bfloat16)
    model = create_model('speedrun96', widths=(8, 8, 8), dtype='bfloat16')
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)

    def loss_fn(params, rest, images):
        logits, new = model.apply({**rest, 'params': params}, images, train=True, mutable=['batch_stats'])
        return jnp.square(logits).sum(), new

    step = jax.jit(jax.grad(loss_fn, has_aux=True))
    rest = {'batch_stats': variables['batch_stats']}
    text = step.trace(variables['params'], rest, images).lower(lowering_platforms=('cuda',)).as_text()
    convolutions = [line for line in text.splitlines() if 'stablehlo.convolution' in line]
    assert 'scatter' not in text and len(convolutions) >= 3 * 9
    assert all('f32' not in line.split('->')[0].split(':')[-1] for line in convolutions)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'widths': ()}, 'widths must be a tuple'),
        ({'widths': 64}, 'widths must be a tuple'),
        ({'widths': (64, 0)}, 'each of widths must be an integer of at least 1, not 0'),
        ({'depth': 4}, 'depth must be 2 or 3 convolutions in a group, not 4'),
        ({'logit_scale': 0}, 'logit_scale must be a number above 0, not 0'),
        ({'logit_scale': True}, 'logit_scale must be a number above 0, not True'),
        ({'batch_norm_momentum': 1}, 'batch_norm_momentum must be a share from 0 to below 1, not 1'),
        ({'num_classes': 0}, 'num_classes must be'),
        ({'dtype': 'float16'}, 'dtype must be'),
        ({'act': 'gelu'}, 'act must be a function'),
    ],
)
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        SpeedrunNet(**kwargs)
    assert '\n' not in str(info.value)


def test_images_must_be_large_enough_to_be_halved_by_every_group():
    init = functools.partial(create_model('speedrun94').init, jax.random.key(0), train=False)
    jax.eval_shape(init, jnp.zeros((1, 9, 9, 1)))
    with pytest.raises(ConfigError, match='images of 8x9 pixels are too small; need at least 9x9'):
        init(jnp.zeros((1, 8, 9, 1)))
