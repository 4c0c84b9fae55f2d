"""Pooling with a fast gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError


def max_pool(x: jax.Array, window: int, strides: int, padding: int = 0) -> jax.Array:
    """Returns the maximum over square windows, like PyTorch's `MaxPool2d(window, strides, padding)`.

    Args:
      x: floating point, `[batch, height, width, channels]`.
      window, strides: in pixels, equal for height and width.
      padding: pixels of -inf on every side, at most `window // 2`.

    Returns:
      `[batch, (height + 2 * padding - window) // strides + 1, (width ...) ..., channels]` in x's dtype. If several
      pixels share the maximum, the gradient is divided among them; PyTorch gives it to the first.

    Raises:
      ConfigError: the window is larger than the padded image, or the padding larger than half the window.
    """
    # nn.max_pool's gradient is a scatter, on a CPU 20 times slower than the gradient of a maximum of strided slices. Maxima
    # over rows, then over columns, need 2 * window slices instead of window^2.
    if padding > window // 2:
        raise ConfigError(f'padding {padding} is larger than half the pooling window of {window}')
    if any(size + 2 * padding < window for size in x.shape[1:3]):
        raise ConfigError(f'images are too small: a pooling window of {window} does not fit into {x.shape[1:3]} pixels')
    if (window, strides, padding) == (2, 2, 0):
        return _max_of_blocks(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])
    for axis in (1, 2):
        pad_width = [(0, 0)] * x.ndim
        pad_width[axis] = (padding, padding)
        x = jnp.pad(x, pad_width, constant_values=-jnp.inf)
        span = (x.shape[axis] - window) // strides * strides + 1
        slices = [jax.lax.slice_in_dim(x, start, start + span, strides, axis) for start in range(window)]
        x = functools.reduce(jnp.maximum, slices)
    return x


@jax.custom_jvp
def _max_of_blocks(x: jax.Array) -> jax.Array:
    """Returns the maxima of 2x2 blocks of `[batch, 2 * h, 2 * w, channels]`."""
    return functools.reduce(jnp.maximum, _corners(x))


@_max_of_blocks.defjvp
def _max_of_blocks_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Stores which pixels of each block are the largest, as the bits of a byte; the gradient reads nothing else of x.

    Compares pixels with each other, not with y: if XLA computes x twice with different rounding, no pixel equals y.
    """
    (x,), (dx,) = primals, tangents
    corners = _corners(x)
    largest = [
        functools.reduce(jnp.logical_and, [pixel >= other for other in corners if other is not pixel]) for pixel in corners
    ]
    bits = sum(chosen.astype(jnp.uint8) << place for place, chosen in enumerate(largest))
    y, bits = jax.lax.optimization_barrier((_max_of_blocks(x), bits))  # otherwise the gradient recomputes the bits from x
    places = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = (bits[:, :, None, :, None] >> places) & 1
    blocks = _blocks(dx, 2)
    count = sum((bits >> place) & 1 for place in range(4))  # JAX cannot differentiate population_count, not even to zero
    return y, jnp.where(chosen == 1, blocks, 0).sum((2, 4)) / jnp.maximum(jnp.asarray(count, x.dtype), 1)  # count is 0 for NaN


def _corners(x: jax.Array) -> list[jax.Array]:
    """Returns, for each of the four places in 2x2 blocks, the pixels at this place."""
    return [jax.lax.slice(x, (0, i, j, 0), x.shape, (1, 2, 2, 1)) for i in range(2) for j in range(2)]


@jax.custom_jvp
def global_max_pool(x: jax.Array) -> jax.Array:
    """Returns the maximum over all pixels, `[batch, channels]` of `[batch, height, width, channels]`.

    The gradient goes to the first of equal pixels, as in PyTorch. JAX's gradient looks for pixels that are equal to the
    maximum; if XLA computes x twice with different rounding, there are none, and the gradient is infinite.
    """
    return x.max((1, 2))


@global_max_pool.defjvp
def _global_max_pool_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    chosen = jnp.arange(pixels.shape[1])[None, :, None] == pixels.argmax(1)[:, None]
    return global_max_pool(x), jnp.where(chosen, dx.reshape(pixels.shape), 0).sum(1)


def average_pool(x: jax.Array, window: int, ceil_mode: bool = False) -> jax.Array:
    """Returns the mean over adjacent square windows, like `AvgPool2d(window, ceil_mode=..., count_include_pad=False)`.

    Args:
      x: floating point, `[batch, height, width, channels]`.
      window: in pixels; must be 2 if ceil_mode is True.
      ceil_mode: whether an odd last row or column gets separate windows; otherwise it is dropped.

    Returns:
      `[batch, height // window, width // window, channels]` in x's dtype, rounded up with ceil_mode.

    Raises:
      ConfigError: the window is larger than the image, and ceil_mode is False.
    """
    if ceil_mode:  # The mean of a pixel and its copy is the pixel.
        for axis in (1, 2):
            if x.shape[axis] % 2:
                x = jnp.concatenate([x, jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)], axis)
    height, width = x.shape[1] // window, x.shape[2] // window
    if not height or not width:
        raise ConfigError(f'images are too small: a pooling window of {window} does not fit into {x.shape[1:3]} pixels')
    x = x[:, : height * window, : width * window]
    return _blocks(x, window).mean((2, 4))


def _blocks(x: jax.Array, window: int) -> jax.Array:
    """Returns `[batch, height // window, window, width // window, window, channels]` of `[batch, height, width, channels]`."""
    # Splits one axis after the other: JAX cannot split two at once if types say how arrays are divided among devices.
    x = x.reshape(x.shape[0], x.shape[1] // window, window, *x.shape[2:])
    return x.reshape(*x.shape[:3], x.shape[3] // window, window, x.shape[4])


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Returns the means over `size` nearly equal parts of each axis, `[batch, size, size, channels]`.

    Like PyTorch's `AdaptiveAvgPool2d(size)`.

    On an axis of n pixels, part i goes from floor(i * n / size) to ceil((i + 1) * n / size); parts may overlap. x is floating
    point, `[batch, height, width, channels]`, of any height and width.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        if n != size:
            parts = [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
            x = jnp.stack([x[(slice(None),) * axis + (part,)].mean(axis) for part in parts], axis)
    return x
