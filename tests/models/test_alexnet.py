import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def reference():
    torch.manual_seed(0)
    return torch_reference.AlexNet()


@pytest.fixture(scope='module')
def variables(reference):
    return torch_reference.flax_variables(reference)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


@pytest.mark.slow
def test_every_parameter_receives_a_gradient(variables, images):
    model = create_model('alexnet')

    @jax.jit
    @jax.grad
    def gradient(params):
        logits = model.apply({'params': params}, images, train=True, rngs={'dropout': jax.random.key(1)})
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables['params'])):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_dropout_in_training_only(variables, images):
    model = create_model('alexnet')
    apply = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={'dropout': key}))
    first, again, other = apply(jax.random.key(0)), apply(jax.random.key(0)), apply(jax.random.key(1))
    chex.assert_trees_all_equal(first, again)
    assert (first != other).any()


def test_bfloat16_leaves_logits_and_parameters_in_float32(images):
    model = create_model('alexnet', dtype=jnp.bfloat16)
    outputs = jax.eval_shape(functools.partial(model.init_with_output, train=False), jax.random.key(0), images)
    for leaf in jax.tree.leaves(outputs):
        assert leaf.dtype == jnp.float32


def test_image_size():
    init = functools.partial(create_model('alexnet').init_with_output, train=False)
    logits, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 15, 15, 1)))
    chex.assert_shape(logits, (2, 10))
    with pytest.raises(ConfigError, match='14x32 pixels are too small; need at least 15x15'):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 14, 32, 1)))
    init = functools.partial(create_model('alexnet_imagenet').init_with_output, train=False)
    for size in (63, 224):
        _, variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
        chex.assert_shape(variables['params']['fc1']['kernel'], (9216, 4096))
    with pytest.raises(ConfigError, match='62x80 pixels are too small; need at least 63x63'):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 62, 80, 3)))
