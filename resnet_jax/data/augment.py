"""Augmentation inside the compiled step: pure functions of one image and a key, mapped over the batch with vmap.

`tta_logits` is test-time augmentation.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError

# For each tta, pairs (weight, pixels by which the crop moves down and right); the mirrored view has half of the weight.
TTA = {
    'none': (),
    'mirror': ((1.0, 0),),
    'mirror_translate': ((0.5, 0), (0.25, -1), (0.25, 1)),
}


def random_crop(key: jax.Array, image: jax.Array, padding: int, mode: str = 'constant') -> jax.Array:
    """Pads `[height, width, channels]` by `padding` pixels on each side and crops the original size at random.

    'constant' pads with 0, which is black and not the mean, as in He et al. 2016 (section 4.2) and torchvision's RandomCrop.
    'reflect' mirrors the image without repeating its edge pixels, as in numpy.pad and
    github.com/KellerJordan/cifar10-airbench.
    """
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    widths = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, widths, mode='reflect') if mode == 'reflect' else jnp.pad(image, widths)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Flips `[height, width, channels]` left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def mirrored_in_epoch(key: jax.Array, examples: jax.Array, epoch: jax.Array) -> jax.Array:
    """Returns which examples alternating flip mirrors: each at random in epoch 0, then alternating every epoch.

    Two consecutive epochs show both orientations of every example (Jordan, arXiv:2404.00498).

    Args:
      key: PRNG key of the run, not of an epoch or step.
      examples: int32 `[batch]`: indices in the training set.
      epoch: int32 scalar, from 0.

    Returns:
      bool `[batch]`, which depends only on `key`, example and epoch.
    """
    first = jax.vmap(lambda example: jax.random.bernoulli(jax.random.fold_in(key, example)))(examples)
    return first ^ (epoch % 2 == 1)


def color_jitter(key: jax.Array, image: jax.Array, brightness: float, contrast: float) -> jax.Array:
    """Adds a number from [-brightness, brightness] to a normalised image and multiplies it by one from 1 +- `contrast`.

    Both numbers are uniform and shared by all pixels and channels. The image is in units of the standard deviation, so contrast
    is relative to the mean of the data set. github.com/hiverge/cifar10-speedrun trains to 94 % with 0.1399 and 0.1308.
    """
    shift, scale = jax.random.uniform(key, (2,), image.dtype, -1.0, 1.0)
    jittered: jax.Array = (image + brightness * shift) * (1.0 + contrast * scale)
    return jittered


def cutout(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Zeroes a square of `size` pixels a side around a random centre; it may cross the edge (DeVries and Taylor 2017)."""
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre[0] - size // 2, centre[1] - size // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < top + size))[:, None] & ((columns >= left) & (columns < left + size))[None, :]
    return jnp.where(inside[..., None], jnp.zeros_like(image), image)


def normalize(image: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Maps uint8 `[..., channels]` to (image / 255 - mean) / std, computed in float32 and returned as `dtype`."""
    image = image.astype(jnp.float32) / 255.0
    mean_array, std_array = (jnp.broadcast_to(jnp.array(values, jnp.float32), image.shape) for values in (mean, std))
    return ((image - mean_array) / std_array).astype(dtype)


def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    crop_padding: int = 0,
    crop_mode: str = 'constant',
    flip: bool = False,
    mirrored: jax.Array | None = None,
    brightness: float = 0.0,
    contrast: float = 0.0,
    cutout_size: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Crops, flips, normalises, jitters and cuts out, each image with its own key.

    Args:
      keys: `[batch]` typed PRNG keys.
      images: uint8 `[batch, height, width, channels]`.
      flip: mirror each image with probability 1/2.
      mirrored: bool `[batch]`: mirror these images instead.

    Returns:
      `[batch, height, width, channels]` of `dtype`. Cutout comes after the normalisation, so it fills with the mean.
    """

    def augment_image(key: jax.Array, image: jax.Array, mirror: jax.Array | None) -> jax.Array:
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        if crop_padding:
            image = random_crop(crop_key, image, crop_padding, crop_mode)
        if mirror is not None:
            image = jnp.where(mirror, image[:, ::-1], image)
        elif flip:
            image = random_flip(flip_key, image)
        if brightness or contrast:
            jitter_key = jax.random.fold_in(key, 3)  # not a fourth key of the split, which would change the other three
            image = color_jitter(jitter_key, normalize(image, mean, std), brightness, contrast).astype(dtype)
        else:
            image = normalize(image, mean, std, dtype)
        return cutout(cutout_key, image, cutout_size) if cutout_size else image

    return jax.vmap(augment_image)(keys, images, mirrored)


def tta_logits(logits_of: Callable[[jax.Array], jax.Array], images: jax.Array, tta: str) -> jax.Array:
    """Returns logits averaged over several views of each image: test-time augmentation.

    'none' uses only the image itself. 'mirror' averages the image and its mirror image. 'mirror_translate' gives these two
    views half of the weight and the other half to the same two views of the image moved by one pixel, up and left or down and
    right, after reflection padding: six views, as in github.com/KellerJordan/cifar10-airbench (Jordan, arXiv:2404.00498).

    Args:
      logits_of: function from `[batch, height, width, channels]` to float32 `[batch, num_classes]`.
      images: `[batch, height, width, channels]`, normalised.

    Raises:
      ConfigError: an unknown `tta`.
    """
    if tta not in TTA:
        raise ConfigError(f'tta is {tta!r}; expected one of {", ".join(TTA)}')
    if tta == 'none':
        return logits_of(images)
    height, width = images.shape[1:3]
    views, weights = [], []
    for weight, shift in TTA[tta]:
        moved = images
        if shift:
            padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')
            moved = padded[:, 1 + shift : 1 + shift + height, 1 + shift : 1 + shift + width]
        views += [moved, moved[:, :, ::-1]]
        weights += [weight / 2, weight / 2]
    # One view after the other: the network is compiled once and needs no more memory than for one view. The weighted sum is
    # not a matrix product, which a GPU would round to TF32.
    logits: jax.Array = jax.lax.map(logits_of, jnp.stack(views))
    return jnp.sum(np.array(weights, np.float32)[:, None, None] * logits, 0)
