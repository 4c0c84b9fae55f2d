import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax.test_util import check_grads

from resnet_jax.errors import ConfigError
from resnet_jax.ops.pooling import adaptive_average_pool, average_pool, global_max_pool, max_pool


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


@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize('shape', [(2, 8, 6, 3), (2, 7, 5, 1), (1, 3, 4, 2)])
def test_average_pool_agrees_with_torch(shape, ceil_mode):
    x = distinct(*shape)
    expected = F.avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 2, ceil_mode=ceil_mode, count_include_pad=False)
    np.testing.assert_allclose(average_pool(x, 2, ceil_mode), expected.numpy().transpose(0, 2, 3, 1), rtol=1e-6)


@pytest.mark.parametrize('size', [(6, 6), (13, 6), (3, 1), (12, 7)])
def test_adaptive_average_pool_agrees_with_torch(size):
    x = distinct(2, *size, 3)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 6).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(adaptive_average_pool(x, 6), expected, rtol=1e-6)


def test_an_average_pool_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r'a pooling window of 2 does not fit into \(1, 4\) pixels'):
        average_pool(jnp.zeros((1, 1, 4, 1)), 2)
    assert average_pool(jnp.ones((1, 1, 1, 1)), 2, ceil_mode=True).shape == (1, 1, 1, 1)


def test_global_maximum_and_its_gradient_are_pytorchs_also_for_ties():
    x = np.random.default_rng(0).integers(0, 4, size=(3, 5, 4, 6)).astype(np.float32)  # many ties
    weights = np.arange(18, dtype=np.float32).reshape(3, 6)
    y, vjp = jax.vjp(global_max_pool, jnp.asarray(x))
    torch_x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = torch.nn.functional.adaptive_max_pool2d(torch_x, 1)[:, :, 0, 0]
    (expected * torch.from_numpy(weights)).sum().backward()
    chex.assert_trees_all_equal(np.asarray(y), expected.detach().numpy())
    chex.assert_trees_all_equal(np.asarray(vjp(jnp.asarray(weights))[0]), torch_x.grad.numpy().transpose(0, 2, 3, 1))
    with jax.enable_x64(True):
        check_grads(global_max_pool, (np.random.default_rng(0).normal(size=(2, 3, 3, 2)),), order=2)
