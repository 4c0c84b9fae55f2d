"""BatchNorm and GELU with gradients of their own: against Flax's and PyTorch's, and against finite differences."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

from resnet_jax.models.activations import act_of_sum, gelu, relu
from resnet_jax.models.batch_norm import BatchNorm, normalize


def arrays(*shape):
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(1, 2, shape), rng.normal(1, 0.3, shape[-1]), rng.normal(0, 0.3, shape[-1])
    return x, scale, bias


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize('use_scale', [True, False])
def test_values_gradients_and_statistics_are_those_of_flax(dtype, tolerance, use_scale):
    x, scale, bias = arrays(8, 6, 6, 16)
    params = {'bias': bias.astype(np.float32)} | ({'scale': scale.astype(np.float32)} if use_scale else {})
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def results(cls):
        layer = cls(momentum=0.9, epsilon=1e-5, dtype=dtype, use_scale=use_scale)
        images = jnp.asarray(x, dtype)
        variables = layer.init(jax.random.key(0), images, use_running_average=False)
        assert jax.tree.map(jnp.shape, variables['params']) == jax.tree.map(np.shape, params)

        def loss(params, images):
            inputs = {**variables, 'params': params}
            y, updated = layer.apply(inputs, images, use_running_average=False, mutable=['batch_stats'])
            return (jnp.sin(y.astype(jnp.float32)) * weights).sum(), (y, updated)

        (_, (y, updated)), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, images)
        evaluated = layer.apply({**updated, 'params': params}, images, use_running_average=True)
        return y, updated, gradients, evaluated

    for ours, flax in zip(*(jax.tree.leaves(results(cls)) for cls in (BatchNorm, nn.BatchNorm)), strict=True):
        assert ours.dtype == flax.dtype
        ours, flax = np.asarray(ours, np.float32), np.asarray(flax, np.float32)
        assert np.abs(ours - flax).max() <= tolerance * np.abs(flax).max()


def test_derivatives_of_any_order():
    with jax.enable_x64(True):
        point = tuple(map(jnp.asarray, arrays(3, 2, 2, 2)))
        for part in range(3):  # the output, the mean, the variance
            check_grads(lambda *point, part=part: jnp.sin(normalize(*point, 1e-2, None)[part]), point, order=2)
        check_grads(gelu, (jnp.linspace(-6.0, 6.0, 25),), order=2)


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    x, scale, bias = (array.astype(np.float32) for array in arrays(8, 3, 3, 4))
    apart = jax.vmap(functools.partial(normalize, epsilon=1e-5, axis_name='batch'), (0, None, None), axis_name='batch')

    def loss(function, x, scale, bias):
        return jnp.sin(function(x, scale, bias)[0]).sum()

    whole = jax.value_and_grad(functools.partial(loss, lambda *a: normalize(*a, 1e-5, None)), (0, 1, 2))(x, scale, bias)
    parts = jax.value_and_grad(functools.partial(loss, apart), (0, 1, 2))(x.reshape(2, 4, 3, 3, 4), scale, bias)
    for ours, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_gelu_is_that_of_pytorch():
    x = np.linspace(-8, 8, 401, dtype=np.float32)
    expected = torch.tensor(x, requires_grad=True)
    torch.nn.functional.gelu(expected).sum().backward()
    y, slope = jax.vmap(jax.value_and_grad(gelu))(x)
    np.testing.assert_allclose(y, torch.nn.functional.gelu(expected).detach(), atol=1e-6)
    np.testing.assert_allclose(slope, expected.grad, atol=1e-6)
    assert gelu(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_relu_of_a_sum_has_the_derivatives_of_relu():
    """Also at 0, of NaN, in both modes, twice, and mapped."""
    x, y = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    x[0, 0], x[1, 1], y[1, 1] = np.nan, 1.0, -1.0

    def ours(x, y):
        return act_of_sum(relu, x, y)

    def plain(x, y):
        return jax.nn.relu(x + y)

    for function in (
        lambda act: act(x, y),
        lambda act: jax.vmap(jax.grad(lambda x, y: jnp.sin(act(x, y)).sum(), (0, 1)))(x, y),
        lambda act: jax.jvp(act, (x, y), (y, x)),
        lambda act: jax.grad(lambda x: (jax.grad(lambda x: (act(x, y) ** 3).sum())(x) ** 2).sum())(x),
    ):
        for one, other in zip(jax.tree.leaves(function(ours)), jax.tree.leaves(function(plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_array_equal(act_of_sum(gelu, x, y), gelu(x + y))
    assert act_of_sum(relu, jnp.asarray(x, jnp.bfloat16), 0.0).dtype == jnp.bfloat16
