"""The image operations of AutoAugment and its successors, with Pillow's arithmetic on uint8 images.

An `Operation` is a row of numbers, so under vmap every image can have a different one. All images pass through one
nearest-neighbour gather, one blend and one histogram, whatever their operations are.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MOVE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(9)

Matrix = tuple[float, float, float, float, float, float]
_UNMOVED: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Operation(NamedTuple):
    """An operation of `transform` on an image; in a table of operations the leaves have a leading axis.

    Attributes:
      matrix: int32 `[6]`, in units of 1/65536 pixel, as returned by `affine`; for MOVE. Output pixel (x, y) shows input pixel
        (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]).
      kind: int32 scalar, one of this module's constants.
      value: float32 scalar: the factor of BRIGHTNESS, CONTRAST, COLOR and SHARPNESS (1 does not change the image), the number
        of bits that POSTERIZE keeps, or the threshold of SOLARIZE.
    """

    matrix: jax.Array | np.ndarray
    kind: jax.Array | np.ndarray
    value: jax.Array | np.ndarray


def affine(matrix: Matrix) -> np.ndarray:
    """Returns a map from output to input coordinates, both from the image's corner, as int32 `[6]` for `Operation`.

    Uses Pillow's fixed-point rule: 16 fractional bits, rounded half up; coordinates are those of pixel centres.
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


def operation(kind: int = MOVE, value: float = 0.0, matrix: Matrix = _UNMOVED) -> Operation:
    """Returns an operation as NumPy values."""
    return Operation(affine(matrix), np.array(kind, np.int32), np.array(value, np.float32))


def transform(image: jax.Array, operation: Operation) -> jax.Array:
    """Applies an operation to an image.

    The result equals that of Pillow's functions, except that Pillow's levels of AUTOCONTRAST may be lower by 1: Pillow computes
    them in float64 and rounds down.

    Args:
      image: uint8 `[height, width, channels]`, with 1 (grey) or 3 channels (RGB).

    Returns:
      uint8 `[height, width, channels]`; pixels from outside the image are black.
    """
    matrix, kind, value = map(jnp.asarray, operation)
    # The input of each operation is the image: XLA would compute an intermediate result once per use.
    blended = blend(_counterpart(image, kind), image, value)
    by_level = jnp.select([kind == kinds for kinds in (POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE)], [
        _posterize(image, value), _solarize(image, value), _stretch(image), _equalize(image)
    ], _gather(image, matrix))  # fmt: skip
    return jnp.where((kind >= BRIGHTNESS) & (kind <= SHARPNESS), blended, by_level)


def blend(start: jax.Array, end: jax.Array, factor: jax.Array) -> jax.Array:
    """PIL.Image.blend: returns start + factor * (end - start) of uint8 images, rounded towards 0 to uint8."""
    first = start.astype(jnp.float32)
    return _to_uint8(first + factor * (end.astype(jnp.float32) - first))


def saturate(image: jax.Array, factor: jax.Array) -> jax.Array:
    """PIL.ImageEnhance.Color: changes the saturation of an image; factor 0 makes it grey, 1 does not change it."""
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
    """PIL.ImageFilter.SMOOTH: the mean over 3 x 3 pixels, the middle one counted five times; the edge is unchanged."""
    height, width, _ = image.shape
    values = image.astype(jnp.float32)
    padded = jnp.pad(values, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4.0 * values
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inner = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    # The product is exact enough: a sum of integers is never within 1/26 of the edge of two levels.
    return jnp.where(inner[..., None], (total + 6.5) * (1.0 / 13.0), values).astype(jnp.uint8)


def _counterpart(image: jax.Array, kind: jax.Array) -> jax.Array:
    """Returns the image that is blended with `image`: black, the grey image, its mean, or the smooth image; uint8."""
    grey = _grey(image)
    total, pixels = jnp.sum(grey, dtype=jnp.uint32), grey.size
    mean = total // pixels + (2 * (total % pixels) >= pixels)  # rounded half up, without overflow
    flat = jnp.where(kind == BRIGHTNESS, 0, jnp.where(kind == CONTRAST, mean.astype(jnp.int32), grey))
    return jnp.where(kind == SHARPNESS, _smooth(image), jnp.broadcast_to(flat[..., None], image.shape).astype(jnp.uint8))


def _posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    spare = jnp.clip(8 - bits, 0, 8).astype(jnp.int32)
    return (image.astype(jnp.int32) >> spare << spare).astype(jnp.uint8)


def _solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
    return jnp.where(image.astype(jnp.float32) < threshold, image, 255 - image)


def _stretch(image: jax.Array) -> jax.Array:
    """PIL.ImageOps.autocontrast: stretches each channel to 0 to 255; a channel with one value stays unchanged."""
    low, high = (reduce(image, axis=(0, 1), keepdims=True).astype(jnp.int32) for reduce in (jnp.min, jnp.max))
    scaled = 255 * (image.astype(jnp.int32) - low)
    # Half of the numerator's unit keeps the float32 quotient off the edges of levels.
    level = (scaled.astype(jnp.float32) + 0.5) * (1.0 / jnp.maximum(high - low, 1).astype(jnp.float32))
    return jnp.where(high > low, level.astype(jnp.uint8), image)


def _equalize(image: jax.Array) -> jax.Array:
    """PIL.ImageOps.equalize: levels by the number of pixels below them, for each channel."""
    channels = image.shape[-1]
    below = jax.lax.platform_dependent(image, cpu=_counts_below_by_scatter, default=_counts_below_by_sort)
    # Counts all pixels but those of the largest value; with a single value the count, and so the step, is 0.
    step = jnp.max(jnp.where(below < image.size // channels, below, 0), axis=0, keepdims=True) // 255
    values = image.reshape(-1, channels)
    counts = jnp.take_along_axis(below, values.astype(jnp.int32), axis=0, mode='promise_in_bounds')
    levels = jnp.minimum(jax.lax.div(step // 2 + counts, jnp.broadcast_to(jnp.maximum(step, 1), counts.shape)), 255)
    return jnp.where(step > 0, levels.astype(jnp.uint8), values).reshape(image.shape)


def _counts_below_by_sort(image: jax.Array) -> jax.Array:
    """Returns how many pixels lie below each level, int32 `[256, channels]`."""
    values = jnp.sort(image.reshape(-1, image.shape[-1]).T, axis=1)
    levels = jnp.arange(256, dtype=jnp.uint8)
    return jax.vmap(lambda channel: jnp.searchsorted(channel, levels, side='left'))(values).T.astype(jnp.int32)


def _counts_below_by_scatter(image: jax.Array) -> jax.Array:
    """Like `_counts_below_by_sort`; six times as fast on a CPU, but a GPU would wait for the atomic additions."""
    channels = image.shape[-1]
    places = image.reshape(-1, channels).astype(jnp.int32) * channels + jnp.arange(channels)[None, :]
    counts = jnp.zeros(256 * channels, jnp.int32).at[places.reshape(-1)].add(1, mode='promise_in_bounds')
    counts = counts.reshape(256, channels)
    return jnp.cumsum(counts, axis=0) - counts
