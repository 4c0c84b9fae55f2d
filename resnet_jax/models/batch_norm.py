"""BatchNorm whose gradient reads the activations twice: once for two sums, and once for the gradient of the input.

Ioffe and Szegedy, arXiv:1502.03167, algorithm 1. JAX's derivative of this algorithm has a path through the mean and a path
through the variance, and XLA computes the sums of each path in a separate pass.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.ops.sums import copies, sums

Triple = tuple[jax.Array, jax.Array, jax.Array]


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm, over all axes but the last, with the same parameters, statistics and results.

    Takes only the fields that the networks here set: momentum, epsilon, dtype, use_bias, use_scale, axis_name and
    use_running_average.
    """

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:  # type: ignore[override]
        running = nn.merge_param('use_running_average', self.use_running_average, use_running_average)
        channels = (x.shape[-1],)
        average_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        average_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        ones, zeros = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
        scale = self.param('scale', lambda _: ones) if self.use_scale else ones
        bias = self.param('bias', lambda _: zeros) if self.use_bias else zeros
        dtype = jnp.dtype(self.dtype or x.dtype)
        if running:
            return _normalized(x, average_mean.value, average_var.value, scale, bias, self.epsilon).astype(dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, var = normalize(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            for average, new in ((average_mean, mean), (average_var, var)):
                average.value = self.momentum * average.value + (1 - self.momentum) * new.astype(average.value.dtype)
        return y.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None) -> Triple:
    """Normalises by the statistics of the batch.

    Args:
      x: `[..., channels]`; scale, bias: `[channels]`.
      axis_name: mapped axis over which the statistics are averaged, or None.

    Returns:
      The normalised array, in the scale's dtype or a wider one, and the mean and the biased variance of each channel. All
      three have derivatives of any order.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, square = _means(axis_name, wide, jax.lax.square(wide))
    var = jnp.maximum(0.0, square - jax.lax.square(mean))  # rounding may make the difference negative
    return _normalized(x, mean, var, scale, bias, epsilon), mean, var


@normalize.defjvp
def _normalize_jvp(epsilon: float, axis_name: str | None, primals: Triple, tangents: Triple) -> tuple[Triple, Triple]:
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    y, mean, var = normalize(x, scale, bias, epsilon, axis_name)
    channels = (1,) * (x.ndim - 1) + mean.shape
    x, scale, dx, dscale, dbias = (array.astype(mean.dtype) for array in (x, scale, dx, dscale, dbias))
    centred = x - mean.reshape(channels)
    dmean, product = _means(axis_name, dx, centred * dx)
    dvar = 2 * product
    inverse = jax.lax.rsqrt(var + epsilon)
    # In each channel, dy is a linear combination of dx, x - mean and 1. Its transpose needs only two sums; these also give the
    # gradients of scale, bias and statistics.
    factor = inverse * scale
    slope = inverse * dscale - factor * inverse * inverse * dvar / 2
    shift = dbias - factor * dmean
    slope, shift = copies(x, slope, shift)
    dy = factor.reshape(channels) * dx + slope * centred + shift
    return (y, mean, var), (dy, dmean, dvar)


def _normalized(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    dtype = jnp.promote_types(x.dtype, var.dtype)
    x, mean, var, scale, bias = (array.astype(dtype) for array in (x, mean, var, scale, bias))
    channels = (1,) * (x.ndim - 1) + mean.shape
    factor = jax.lax.rsqrt(var + epsilon) * scale
    return (x - mean.reshape(channels)) * factor.reshape(channels) + bias.reshape(channels)


def _means(axis_name: str | None, *arrays: jax.Array) -> list[jax.Array]:
    """Returns the means over all axes but the last, and over the devices."""
    means = [total / (arrays[0].size // arrays[0].shape[-1]) for total in sums(*arrays)]
    return means if axis_name is None else list(jax.lax.pmean(means, axis_name))
