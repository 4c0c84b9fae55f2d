"""Mixup and CutMix of a batch with another one."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.rectangles import cutmix_box

Batch = dict[str, jax.Array]

_SHARE, _BOX, _CHOICE = 1, 2, 3  # random streams beside that of mixup, which uses the key itself


def mix(key: jax.Array, batch: Batch, other: Batch, mixup_alpha: float, cutmix_alpha: float) -> Batch:
    """Mixes each example with the one at the same place of another batch, all in the same way.

    mixup (Zhang et al., arXiv:1710.09412) adds images and labels with a weight from Beta(alpha, alpha). CutMix (Yun et al.,
    arXiv:1905.04899) replaces a rectangle, whose share of the pixels is the weight of the other label; before what lies
    outside the image is cut off, it is 1 minus a number from Beta(alpha, alpha). With both, each is used with probability 1/2.

    Args:
      key: of the step; the same on all devices.
      batch, other: 'image' `[batch, height, width, channels]`, and other arrays `[batch, ...]`, which are mixed like labels.
      mixup_alpha, cutmix_alpha: 0 for none; not both 0.
    """
    own = share = jax.random.beta(key, mixup_alpha, mixup_alpha) if mixup_alpha else jnp.float32(1.0)
    if cutmix_alpha:
        height, width = batch['image'].shape[1:3]
        replaced = 1.0 - jax.random.beta(jax.random.fold_in(key, _SHARE), cutmix_alpha, cutmix_alpha)
        box = cutmix_box(jax.random.fold_in(key, _BOX), height, width, replaced)
        kept = 1.0 - box.mask(height, width).astype(jnp.float32)
        kept_share = 1.0 - (box.height * box.width).astype(jnp.float32) / (height * width)
        cut = jax.random.bernoulli(jax.random.fold_in(key, _CHOICE)) if mixup_alpha else True
        own, share = jnp.where(cut, kept, share)[None, :, :, None], jnp.where(cut, kept_share, share)
    shares = {name: own if name == 'image' else share for name in batch}
    return jax.tree.map(lambda a, b, s: (s * a + (1 - s) * b).astype(a.dtype), batch, other, shares)
