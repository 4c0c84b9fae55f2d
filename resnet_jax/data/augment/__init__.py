"""Augmentation inside the compiled step: pure functions of one image and a key, mapped over the batch with vmap.

`augment` applies the functions that a config sets; `mix` mixes the images of a batch with each other; `tta_logits` is
test-time augmentation. `operations` has the arithmetic of Pillow, which defines RandAugment and TrivialAugment (`policies`).
"""

from resnet_jax.data.augment.basic import (
    color_jitter,
    cutout,
    mirrored_in_epoch,
    normalize,
    random_crop,
    random_flip,
)
from resnet_jax.data.augment.mixing import Mixing, mix, random_mixing
from resnet_jax.data.augment.pipeline import augment
from resnet_jax.data.augment.rectangles import random_erasing, random_resized_crop
from resnet_jax.data.augment.views import TTA, tta_logits

__all__ = [
    'TTA',
    'Mixing',
    'augment',
    'color_jitter',
    'cutout',
    'mirrored_in_epoch',
    'mix',
    'normalize',
    'random_crop',
    'random_erasing',
    'random_flip',
    'random_mixing',
    'random_resized_crop',
    'tta_logits',
]
