"""Augments and normalises the images of a batch, each with a separate key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.config import TrainConfig
from resnet_jax.data.augment.basic import color_jitter, cutout, normalize, random_crop, random_flip
from resnet_jax.data.augment.color import random_hue, random_saturation
from resnet_jax.data.augment.policies import randaugment, random_operations, trivialaugment
from resnet_jax.data.augment.rectangles import random_erasing, random_resized_crop

# Random streams of an image. Crop, flip and cutout instead share one `split`, in which a fourth key would change the three.
_JITTER, _RESIZED_CROP, _AUTO_AUGMENT, _SATURATION, _HUE, _ERASING = range(3, 9)


def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    crop_padding: int = 0,
    crop_mode: str = TrainConfig.crop_mode,
    resized_crop_area: float = 0.0,
    flip: bool = False,
    mirrored: jax.Array | None = None,
    saturation: float = 0.0,
    hue: float = 0.0,
    auto_augment: str = 'none',
    randaugment_num_ops: int = TrainConfig.randaugment_num_ops,
    randaugment_magnitude: int = TrainConfig.randaugment_magnitude,
    brightness: float = 0.0,
    contrast: float = 0.0,
    cutout_size: int = 0,
    random_erasing_prob: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Augments and normalises images, each with a separate key, in the order of the arguments.

    Args:
      keys: `[batch]` typed PRNG keys.
      images: uint8 `[batch, height, width, channels]`.
      resized_crop_area: smallest share of a random resized crop; if set, it replaces the padded crop.
      flip: mirror each image with probability 1/2.
      mirrored: bool `[batch]`: mirror these images instead.
      auto_augment: 'none', 'randaugment' or 'trivialaugment', for images with 1 or 3 channels.

    Returns:
      `[batch, height, width, channels]` of `dtype`. Images are normalised before brightness and contrast; cutout and erasing
      fill with the mean.
    """
    height, width = images.shape[1:3]
    table, count = None, randaugment_num_ops
    if auto_augment == 'randaugment':
        table = randaugment(height, width, randaugment_magnitude)
    elif auto_augment == 'trivialaugment':
        table, count = trivialaugment(height, width), 1

    def augment_image(key: jax.Array, image: jax.Array, mirror: jax.Array | None) -> jax.Array:
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        if resized_crop_area:
            image = random_resized_crop(jax.random.fold_in(key, _RESIZED_CROP), image, resized_crop_area)
        elif crop_padding:
            image = random_crop(crop_key, image, crop_padding, crop_mode)
        if mirror is not None:
            image = jnp.where(mirror, image[:, ::-1], image)
        elif flip:
            image = random_flip(flip_key, image)
        if saturation:
            image = random_saturation(jax.random.fold_in(key, _SATURATION), image, saturation)
        if hue:
            image = random_hue(jax.random.fold_in(key, _HUE), image, hue)
        if table is not None:
            image = random_operations(jax.random.fold_in(key, _AUTO_AUGMENT), image, table, count)
        if brightness or contrast:
            jitter_key = jax.random.fold_in(key, _JITTER)
            image = color_jitter(jitter_key, normalize(image, mean, std), brightness, contrast).astype(dtype)
        else:
            image = normalize(image, mean, std, dtype)
        if cutout_size:
            image = cutout(cutout_key, image, cutout_size)
        if random_erasing_prob:
            image = random_erasing(jax.random.fold_in(key, _ERASING), image, random_erasing_prob)
        return image

    return jax.vmap(augment_image)(keys, images, mirrored)
