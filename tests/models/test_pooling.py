import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resnet_jax.errors import ConfigError
from resnet_jax.models.pooling import max_pool


def distinct(*shape):
    """Distinct numbers, all negative, so that padding by zero would show."""
    return -np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.float32) - 1


@pytest.mark.parametrize(
    ('shape', 'window', 'strides', 'padding'),
    [
        ((2, 8, 8, 3), 3, 2, 1),
        ((2, 7, 5, 1), 3, 2, 1),
        ((1, 1, 1, 2), 3, 2, 1),
        ((2, 6, 5, 2), 2, 2, 0),
        ((1, 5, 6, 1), 3, 1, 0),
    ],
)
def test_forward_and_gradient_agree_with_torch(shape, window, strides, padding):
    x = distinct(*shape)
    x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    y_torch = F.max_pool2d(x_torch, window, strides, padding)
    cotangent = distinct(*np.array(y_torch.shape)[[0, 2, 3, 1]])
    y_torch.backward(torch.from_numpy(cotangent.transpose(0, 3, 1, 2).copy()))

    y, pullback = jax.vjp(lambda x: max_pool(x, window, strides, padding), jnp.asarray(x))
    chex.assert_trees_all_equal(np.asarray(y), y_torch.detach().numpy().transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(np.asarray(pullback(cotangent)[0]), x_torch.grad.numpy().transpose(0, 2, 3, 1))


def test_gradient_of_ties_is_shared_and_keeps_its_sum():
    gradient = jax.grad(lambda x: max_pool(x, 2, 2).sum())(jnp.zeros((1, 2, 2, 1)))
    chex.assert_trees_all_close(gradient, jnp.full((1, 2, 2, 1), 0.25))


def test_bfloat16():
    x = distinct(1, 4, 4, 2)
    y = max_pool(jnp.asarray(x, jnp.bfloat16), 3, 2, 1)
    chex.assert_type(y, jnp.bfloat16)
    chex.assert_trees_all_equal(np.asarray(y, np.float32), np.asarray(max_pool(jnp.asarray(x), 3, 2, 1)))


def test_window_larger_than_the_image_is_refused():
    with pytest.raises(ConfigError, match='too small'):
        max_pool(jnp.zeros((1, 1, 4, 1)), 2, 2)


def test_padding_larger_than_half_the_window_is_refused():
    with pytest.raises(ConfigError, match='padding 2'):
        max_pool(jnp.zeros((1, 4, 4, 1)), 3, 2, 2)
