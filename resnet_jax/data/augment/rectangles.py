"""Random rectangles: RandomResizedCrop, random erasing, and the box of CutMix."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_ATTEMPTS = 10  # number of attempts to find a rectangle that fits


class Box(NamedTuple):
    """A rectangle of pixels; the leaves are int32 scalars."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array

    def mask(self, height: int, width: int) -> jax.Array:
        """Returns bool `[height, width]`: which pixels of an image are in the rectangle."""
        y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        rows = (y >= self.top) & (y < self.top + self.height)
        return rows & (x >= self.left) & (x < self.left + self.width)


def random_resized_crop(
    key: jax.Array, image: jax.Array, smallest: float, largest: float = 1.0, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> jax.Array:
    """Crops a random rectangle and resizes it to the size of the image: torchvision's RandomResizedCrop.

    Args:
      image: uint8 or float `[height, width, channels]`.
      smallest, largest: range of the rectangle's area, as shares of the image's area; uniform.
      ratio: range of the rectangle's width over its height; the logarithm is uniform.
    """
    return resize(image, resized_crop_box(key, image.shape[0], image.shape[1], smallest, largest, ratio))


def resized_crop_box(
    key: jax.Array, height: int, width: int, smallest: float, largest: float, ratio: tuple[float, float]
) -> Box:
    """Returns the rectangle of `random_resized_crop`; if ten attempts are too high or too wide, the largest centred one."""
    widths, heights = _random_sides(key, height * width, (smallest, largest), ratio)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    central_width, central_height = width, height
    if width / height < ratio[0]:
        central_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        central_width = round(height * ratio[1])
    box, fits_image = _place(key, heights, widths, fits, height, width)
    central = Box(
        *map(jnp.int32, ((height - central_height) // 2, (width - central_width) // 2, central_height, central_width))
    )
    return Box(*(jnp.where(fits_image, a, b) for a, b in zip(box, central, strict=True)))


def resize(image: jax.Array, box: Box) -> jax.Array:
    """Resizes a rectangle of an image to the image's size, with a linear filter and antialiasing.

    uint8 images are resized like by PIL.Image.Image.resize: first the columns, then the rows, each rounded to uint8. Float
    images are not rounded, as in torch.nn.functional.interpolate(antialias=True).

    Args:
      image: uint8 or float `[height, width, channels]`.
    """
    height, width, _ = image.shape

    def rounded(values: jax.Array) -> jax.Array:
        return jnp.clip(jnp.floor(values + 0.5), 0, 255) if image.dtype == jnp.uint8 else values

    columns, rows = _resizing(box.left, box.width, width), _resizing(box.top, box.height, height)
    exactly = jax.lax.Precision.HIGHEST  # a GPU would round to TF32
    wide = rounded(jnp.einsum('xw,hwc->hxc', columns, image.astype(jnp.float32), precision=exactly))
    return rounded(jnp.einsum('yh,hxc->yxc', rows, wide, precision=exactly)).astype(image.dtype)


def _resizing(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Returns the matrix that resizes `length` of `size` points to `size`, float32 `[size, size]`; its rows sum to 1."""
    scale = length.astype(jnp.float32) / size
    support = jnp.maximum(scale, 1.0)
    centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) * scale
    place = jnp.arange(size) - start
    distance = jnp.abs(place.astype(jnp.float32)[None, :] + 0.5 - centre[:, None])
    inside = (place >= 0) & (place < length)
    weights = jnp.where(inside[None, :], jnp.maximum(1.0 - distance / support, 0.0), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def random_erasing(
    key: jax.Array,
    image: jax.Array,
    probability: float,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> jax.Array:
    """Zeroes a random rectangle with a probability (Zhong et al., arXiv:1708.04896), like torchvision's RandomErasing.

    Args:
      image: normalised `[height, width, channels]`.
      area: range of the rectangle's area, as shares of the image's area; uniform.
      ratio: range of the rectangle's height over its width; the logarithm is uniform.
    """
    height, width, _ = image.shape
    box, fits = erasing_box(key, height, width, area, ratio)
    erased = fits & jax.random.bernoulli(jax.random.fold_in(key, 2), probability)
    return jnp.where((box.mask(height, width) & erased)[..., None], jnp.zeros_like(image), image)


def erasing_box(
    key: jax.Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Box, jax.Array]:
    """Returns the rectangle of `random_erasing`, and whether one of ten attempts is lower and narrower than the image."""
    heights, widths = _random_sides(key, height * width, area, ratio)
    return _place(key, heights, widths, (heights < height) & (widths < width), height, width)


def cutmix_box(key: jax.Array, height: int, width: int, share: jax.Array) -> Box:
    """Returns a rectangle with the proportions of the image and `share` of its area, around a random pixel.

    As in Yun et al. 2019, section 3.1. The rectangle is cut off at the edge of the image. As in torchvision, half of each side
    is rounded down.
    """
    half = 0.5 * jnp.sqrt(share)
    y, x = (jax.random.randint(jax.random.fold_in(key, i), (), 0, size) for i, size in enumerate((height, width)))
    half_height, half_width = ((half * size).astype(jnp.int32) for size in (height, width))
    top, left = jnp.maximum(y - half_height, 0), jnp.maximum(x - half_width, 0)
    bottom, right = jnp.minimum(y + half_height, height), jnp.minimum(x + half_width, width)
    return Box(top, left, bottom - top, right - left)


def _random_sides(
    key: jax.Array, pixels: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Returns ten pairs of sides, each int32 `[10]`, with random area and random ratio of the first to the second side."""
    uniform = jax.random.uniform(jax.random.fold_in(key, 0), (2, _ATTEMPTS))
    areas = pixels * (area[0] + (area[1] - area[0]) * uniform[0])
    low, high = map(math.log, ratio)
    ratios = jnp.exp(low + (high - low) * uniform[1])
    first, second = jnp.sqrt(areas * ratios), jnp.sqrt(areas / ratios)
    return jnp.round(first).astype(jnp.int32), jnp.round(second).astype(jnp.int32)


def _place(
    key: jax.Array, heights: jax.Array, widths: jax.Array, fits: jax.Array, height: int, width: int
) -> tuple[Box, jax.Array]:
    """Returns the first rectangle that fits, at a random place, and whether one fits."""
    chosen = jnp.argmax(fits)
    sides = jnp.stack([heights[chosen], widths[chosen]])
    spare = jnp.maximum(jnp.array([height, width]) - sides, 0)
    top, left = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, spare + 1)
    return Box(top, left, *sides), fits.any()
