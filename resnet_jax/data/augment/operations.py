"""The image operations of AutoAugment and its successors, with Pillow's arithmetic on uint8 images.

An `Operation` is a row of numbers, so that under vmap every image has its own: all images pass through one nearest-neighbour
gather, one table of 256 levels and one blend, whichever operation each of them is given.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IDENTITY, BRIGHTNESS, CONTRAST, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, COLOR, SHARPNESS = range(9)

Matrix = tuple[float, float, float, float, float, float]
_UNMOVED: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Operation(NamedTuple):
    """What `transform` does to an image; in a table of operations the leaves have a leading axis.

    Attributes:
      matrix: int32 `[6]`, in units of 1/65536 pixel: output pixel (x, y) shows input pixel
        (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]), as `affine` returns it.
      kind: int32 scalar, one of this module's constants.
      value: float32 scalar: factor of BRIGHTNESS, CONTRAST, COLOR and SHARPNESS (1 leaves the image as it is), bits kept by
        POSTERIZE, threshold of SOLARIZE.
    """

    matrix: jax.Array | np.ndarray
    kind: jax.Array | np.ndarray
    value: jax.Array | np.ndarray


def affine(matrix: Matrix) -> np.ndarray:
    """Returns a map from output to input coordinates, both from the image's corner, as int32 `[6]` for `Operation`.

    Pillow's fixed-point rule: 16 fractional bits, rounded half up, and pixels are taken at their centres.
    """
    a, b, c, d, e, f = matrix
    centred = (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
    return np.array([math.floor(65536 * value + 0.5) for value in centred], np.int32)


def shear(x: float = 0.0, y: float = 0.0) -> Matrix:
    """Returns the map that shears about the upper left corner: each row moves left by `x` times its number, ..."""
    return 1.0, x, 0.0, y, 1.0, 0.0


def translation(x: int = 0, y: int = 0) -> Matrix:
    """Returns the map that moves an image right by `x` and down by `y` pixels."""
    return 1.0, 0.0, -float(x), 0.0, 1.0, -float(y)


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Returns the map that rotates an image counter-clockwise about its centre, as PIL.Image.Image.rotate computes it."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def operation(kind: int = IDENTITY, value: float = 0.0, matrix: Matrix = _UNMOVED) -> Operation:
    """Returns an operation as NumPy values."""
    return Operation(affine(matrix), np.array(kind, np.int32), np.array(value, np.float32))


def transform(image: jax.Array, operation: Operation) -> jax.Array:
    """Applies an operation to an image.

    Equal to Pillow's functions on the same image, but for AUTOCONTRAST, whose levels Pillow computes in float64 and rounds
    down: it may be lower by 1 there.

    Args:
      image: uint8 `[height, width, channels]`, with 1 (grey) or 3 channels (RGB).

    Returns:
      uint8 `[height, width, channels]`; what was outside the image is black.
    """
    matrix, kind, value = map(jnp.asarray, operation)
    moved = _gather(image, matrix)
    by_level = _look_up(_levels(moved, kind, value), moved)
    mixes = (kind == COLOR) | (kind == SHARPNESS)
    other = jnp.where(kind == COLOR, jnp.broadcast_to(_grey(moved)[..., None], moved.shape), _smooth(moved))
    return jnp.where(mixes, blend(other, moved, value), by_level)


def blend(start: jax.Array, end: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns start + factor * (end - start) of uint8 images as uint8, rounded towards 0: PIL.Image.blend."""
    first = start.astype(jnp.float32)
    return _to_uint8(first + factor * (end.astype(jnp.float32) - first))


def saturate(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Changes the saturation of an image: 0 for grey, 1 for the image itself (PIL.ImageEnhance.Color)."""
    return blend(jnp.broadcast_to(_grey(image)[..., None], image.shape), image, factor)


def _to_uint8(values: jax.Array) -> jax.Array:
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def _gather(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns the nearest input pixel for each output pixel."""
    height, width, channels = image.shape
    x, y = jnp.arange(width, dtype=jnp.int32)[None, :], jnp.arange(height, dtype=jnp.int32)[:, None]
    column = (matrix[0] * x + matrix[1] * y + matrix[2]) >> 16
    row = (matrix[3] * x + matrix[4] * y + matrix[5]) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.where(inside, row * width + column, 0)
    moved = image.reshape(-1, channels).at[index].get(mode='promise_in_bounds')
    return jnp.where(inside[..., None], moved, jnp.uint8(0))


def _grey(image: jax.Array) -> jax.Array:
    """Returns Pillow's mode 'L', ITU-R 601-2 luma in 16-bit fixed point, int32 `[height, width]`."""
    values = image.astype(jnp.int32)
    if image.shape[-1] == 1:
        return values[..., 0]
    return (19595 * values[..., 0] + 38470 * values[..., 1] + 7471 * values[..., 2] + 32768) >> 16


def _smooth(image: jax.Array) -> jax.Array:
    """PIL.ImageFilter.SMOOTH: the mean over 3 x 3 pixels, the middle one counted five times; the edge stays as it is."""
    height, width, _ = image.shape
    padded = jnp.pad(image.astype(jnp.int32), ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image.astype(jnp.int32)
    x, y = jnp.arange(width)[None, :], jnp.arange(height)[:, None]
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    return jnp.where(inner[..., None], (2 * total + 13) // 26, image.astype(jnp.int32))


def _levels(image: jax.Array, kind: jax.Array, value: jax.Array) -> jax.Array:
    """Returns the table of an operation on single values, uint8 `[256, channels]`; the identity for the others."""
    channels = image.shape[-1]
    level = jnp.arange(256, dtype=jnp.int32)
    grey = _grey(image)
    total, pixels = jnp.sum(grey, dtype=jnp.uint32), grey.size
    mean = (total // pixels + (2 * (total % pixels) >= pixels)).astype(jnp.int32)  # rounded half up, without overflow
    spare = jnp.clip(8 - value, 0, 8).astype(jnp.int32)
    same_for_all = jnp.select(
        [kind == BRIGHTNESS, kind == CONTRAST, kind == POSTERIZE, kind == SOLARIZE],
        [
            _to_uint8(value * level.astype(jnp.float32)).astype(jnp.int32),
            blend(jnp.broadcast_to(mean, level.shape), level, value).astype(jnp.int32),
            level >> spare << spare,
            jnp.where(level.astype(jnp.float32) < value, level, 255 - level),
        ],
        level,
    )
    low, high = (reduce(image, axis=(0, 1)).astype(jnp.int32)[None, :] for reduce in (jnp.min, jnp.max))
    columns = jnp.broadcast_to(level[:, None], (256, channels))
    stretched = jnp.clip((columns - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    table = jnp.broadcast_to(same_for_all[:, None], (256, channels))
    table = jnp.where((kind == AUTOCONTRAST) & (high > low), stretched, table)
    table = jnp.where(kind == EQUALIZE, _equalizing(image, high), table)
    return table.astype(jnp.uint8)


def _equalizing(image: jax.Array, high: jax.Array) -> jax.Array:
    """Returns the table of PIL.ImageOps.equalize, int32 `[256, channels]`, given the largest value of each channel."""
    level = jnp.arange(256, dtype=jnp.int32)[:, None]
    below = jax.lax.platform_dependent(image, cpu=_counts_below_by_scatter, default=_counts_below_by_sort)
    # All pixels but those of the largest value; with a single value there are none, and the step is 0.
    step = jnp.sum(jnp.where(level == high, below, 0), axis=0, keepdims=True) // 255
    table = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), level)


def _counts_below_by_sort(image: jax.Array) -> jax.Array:
    """Returns how many pixels lie below each level, int32 `[256, channels]`."""
    values = jnp.sort(image.reshape(-1, image.shape[-1]).T, axis=1)
    levels = jnp.arange(256, dtype=jnp.uint8)
    return jax.vmap(lambda channel: jnp.searchsorted(channel, levels, side='left'))(values).T.astype(jnp.int32)


def _counts_below_by_scatter(image: jax.Array) -> jax.Array:
    """The same, on a CPU six times as fast as a sort; a GPU would wait for its atomic additions."""
    channels = image.shape[-1]
    places = image.reshape(-1, channels).astype(jnp.int32) * channels + jnp.arange(channels)[None, :]
    counts = jnp.zeros(256 * channels, jnp.int32).at[places.reshape(-1)].add(1, mode='promise_in_bounds')
    counts = counts.reshape(256, channels)
    return jnp.cumsum(counts, axis=0) - counts


def _look_up(table: jax.Array, image: jax.Array) -> jax.Array:
    channels = image.shape[-1]
    values = image.reshape(-1, channels).astype(jnp.int32)
    return jnp.take_along_axis(table, values, axis=0, mode='promise_in_bounds').reshape(image.shape)
