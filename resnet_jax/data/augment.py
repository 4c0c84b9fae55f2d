"""Augmentation inside the compiled step: pure functions of one image and a key, mapped over the batch with vmap."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def random_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Pads `[height, width, channels]` with `padding` zeros on each side and crops the original size at random.

    The padding is black, not the mean, as in He et al. 2016 (section 4.2) and torchvision's RandomCrop.
    """
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Flips `[height, width, channels]` left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def cutout(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Sets a square of `size` pixels to zero around a random centre; it may reach over the edge (DeVries and Taylor 2017)."""
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre[0] - size // 2, centre[1] - size // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < top + size))[:, None] & ((columns >= left) & (columns < left + size))
    return jnp.where(inside[..., None], jnp.zeros_like(image), image)


def normalize(image: jax.Array, mean: Sequence[float], std: Sequence[float], dtype=jnp.float32) -> jax.Array:
    """Maps uint8 `[..., channels]` to (image / 255 - mean) / std, computed in float32 and returned as `dtype`."""
    image = image.astype(jnp.float32) / 255.0
    return ((image - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)).astype(dtype)


def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    crop_padding: int = 0,
    flip: bool = False,
    cutout_size: int = 0,
    dtype=jnp.float32,
) -> jax.Array:
    """Crops, flips, normalises and cuts out, each image with its own key.

    Args:
      keys: `[batch]` typed PRNG keys.
      images: uint8 `[batch, height, width, channels]`.

    Returns:
      `[batch, height, width, channels]` of `dtype`. Cutout comes after the normalisation, so that it fills with the mean.
    """

    def one(key, image):
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        if crop_padding:
            image = random_crop(crop_key, image, crop_padding)
        if flip:
            image = random_flip(flip_key, image)
        image = normalize(image, mean, std, dtype)
        return cutout(cutout_key, image, cutout_size) if cutout_size else image

    return jax.vmap(one)(keys, images)
