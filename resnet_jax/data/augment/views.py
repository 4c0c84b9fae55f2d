"""Test-time augmentation: logits averaged over several views of each image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError

# For each tta, pairs (weight, pixels by which the crop moves down and right); the mirrored view has half of the weight.
TTA = {
    'none': (),
    'mirror': ((1.0, 0),),
    'mirror_translate': ((0.5, 0), (0.25, -1), (0.25, 1)),
}


def tta_logits(logits_of: Callable[[jax.Array], jax.Array], images: jax.Array, tta: str) -> jax.Array:
    """Returns logits averaged over several views of each image: test-time augmentation.

    'none' uses only the image itself. 'mirror' averages the image and its mirror image. 'mirror_translate' has six views, as in
    github.com/KellerJordan/cifar10-airbench (Jordan, arXiv:2404.00498): these two have half of the weight; the other half is
    for both views of the image moved by one pixel, up and left or down and right, after reflection padding.

    Args:
      logits_of: function from `[batch, height, width, channels]` to float32 `[batch, num_classes]`.
      images: `[batch, height, width, channels]`, normalised.

    Raises:
      ConfigError: `tta` is unknown.
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
    # not written as a matrix product, because a GPU would round that to TF32.
    logits: jax.Array = jax.lax.map(logits_of, jnp.stack(views))
    return jnp.sum(np.array(weights, np.float32)[:, None, None] * logits, 0)
