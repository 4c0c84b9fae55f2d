"""Mixup and CutMix: mix each example with another one; all examples of a batch are mixed in the same way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.rectangles import cutmix_box

Batch = dict[str, jax.Array]

_SHARE, _BOX, _CHOICE = 1, 2, 3  # random streams; mixup uses the key itself


class Mixing(NamedTuple):
    """The weights of the first example in a mixture, float32.

    Attributes:
      image: the weight of its pixels: a scalar, or `[1, height, width, 1]`.
      label: the weight of its label: a scalar.
    """

    image: jax.Array
    label: jax.Array


def random_mixing(key: jax.Array, height: int, width: int, mixup_alpha: float, cutmix_alpha: float) -> Mixing:
    """Returns how to mix the batch of one step.

    mixup (Zhang et al., arXiv:1710.09412) averages images and labels with a share from Beta(alpha, alpha). CutMix (Yun et al.,
    arXiv:1905.04899) pastes a rectangle of the other image, with 1 - share of the area, where share is from Beta(alpha, alpha).
    The rectangle is cut off at the edge of the image, and the labels are mixed by the number of pasted pixels. With both, each
    is used with probability 1/2.

    Args:
      key: PRNG key of the step; equal on all devices.
      mixup_alpha, cutmix_alpha: 0 for none; not both 0.
    """
    image = label = jax.random.beta(key, mixup_alpha, mixup_alpha) if mixup_alpha else jnp.float32(1.0)
    if cutmix_alpha:
        replaced = 1.0 - jax.random.beta(jax.random.fold_in(key, _SHARE), cutmix_alpha, cutmix_alpha)
        box = cutmix_box(jax.random.fold_in(key, _BOX), height, width, replaced)
        kept = 1.0 - box.mask(height, width).astype(jnp.float32)
        kept_share = 1.0 - (box.height * box.width).astype(jnp.float32) / (height * width)
        cut = jax.random.bernoulli(jax.random.fold_in(key, _CHOICE)) if mixup_alpha else jnp.bool_(True)
        image, label = jnp.where(cut, kept, image)[None, :, :, None], jnp.where(cut, kept_share, label)
    return Mixing(image, label)


def mix(batch: Batch, other: Batch, mixing: Mixing) -> Batch:
    """Mixes each example with the example at the same place of another batch.

    Args:
      batch, other: 'image' `[batch, height, width, channels]`, and other arrays `[batch, ...]`, which are mixed like labels.
    """
    mixed = {}
    for name, values in batch.items():
        share = mixing.image if name == 'image' else mixing.label
        mixed[name] = (share * values + (1 - share) * other[name]).astype(values.dtype)
    return mixed
