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
from resnet_jax.models import create_model

pytestmark = pytest.mark.usefixtures('quick_compilation')

ImageNetAlexNet = functools.partial(torch_reference.ImageNetAlexNet, 10)

# LeNet and both AlexNets: the networks without BatchNorm. Images are small, AlexNet's are not of its usual size.
PAIRS = {
    'lenet5': (create_model('lenet5', padding=2), torch_reference.D2LLeNet, (28, 28, 1)),
    'lenet5_relu': (create_model('lenet5_relu'), torch_reference.LeNet, (32, 32, 3)),
    'alexnet': (create_model('alexnet'), torch_reference.AlexNet, (32, 32, 3)),
    'alexnet_imagenet': (
        create_model('alexnet_imagenet', 10),
        functools.partial(torch_reference.ImageNetAlexNet, 10),
        (96, 130, 3),
    ),
}


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if '_imagenet' in name else ()) for name in PAIRS])
def test_agrees_with_torch(name):
    model, make_reference, shape = PAIRS[name]
    torch.manual_seed(0)
    reference = make_reference()
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    labels = np.array([0, 3, 6])
    variables = torch_reference.flax_variables(reference)
    expected_params = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)['params']
    chex.assert_trees_all_equal_shapes_and_dtypes(variables['params'], expected_params)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        logits = model.apply({'params': params}, images, train=False)  # without dropout, which draws other numbers
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], axis=1).mean(), logits

    (loss, logits), gradients = step(variables['params'])
    expected = torch_reference.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    expected_loss, expected_gradients, _, _ = torch_reference.torch_step(reference, images, labels, train=False)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-3)

    def check(path, actual, wanted):
        place = jax.tree_util.keystr(path)
        assert np.isfinite(actual).all() and np.abs(actual).max() > 0, place
        assert np.abs(actual - wanted).max() < 1e-3 * np.abs(wanted).max(), place

    jax.tree_util.tree_map_with_path(check, gradients, expected_gradients)


@pytest.mark.parametrize(
    ('shape', 'kwargs', 'message'),
    [
        ((1, 15, 32, 3), {}, '15x32 pixels are too small; need at least 16x16'),
        ((1, 28, 28), {}, r'\[batch, height, width, channels\]'),
        ((1, 32, 32, 3), {'pool': 'mean'}, "pool must be one of 'average', 'max', not 'mean'"),
        ((1, 32, 32, 3), {'padding': -1}, 'padding must be an integer'),
        ((1, 32, 32, 3), {'act': 3}, 'act must be a function'),
        ((1, 32, 32, 3), {'act': 'sigmoit'}, "act is 'sigmoit'"),
        ((1, 32, 32, 3), {'num_classes': 0}, 'num_classes must be'),
    ],
)
def test_errors(shape, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        create_model('lenet5', **kwargs).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_bfloat16_leaves_logits_and_parameters_in_float32():
    init = functools.partial(create_model('lenet5', dtype=jnp.bfloat16).init_with_output, train=False)
    for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 32, 32, 3)))):
        assert leaf.dtype == jnp.float32
