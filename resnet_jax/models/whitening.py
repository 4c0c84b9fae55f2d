"""A frozen first layer that whitens small patches of the images, and where its kernel comes from.

Its outputs are the patch's principal components, each divided by its standard deviation, and their negatives, so that an
activation which cuts off one side loses nothing. Idea: D. Page, "How to train your ResNet 8: Bag of tricks", 2019; with the
negatives: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.ops.convolution import conv_general_dilated

LAYER = 'whiten'  # the layer's name in params of every network that has it
SIZE = 2  # height and width of a patch
_BLOCK = 500  # images whose patches are in memory at a time


def _frozen_convolution(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    # Without the gradient that nobody uses: at the images' full size it would cost more than that of a later layer.
    return conv_general_dilated(x, jax.lax.stop_gradient(kernel), *args, **kwargs)


def _unit_patches(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """What `whitening_kernel` gives for white images: the pixels themselves, and their negatives."""
    eye = jnp.eye(shape[-1] // 2, dtype=dtype)
    return jnp.concatenate([eye, -eye], 1).reshape(shape)


def whitening_conv(channels: int, dtype: DTypeLike = jnp.float32) -> nn.Module:
    """Returns the layer for images of so many channels: unpadded, `2 * SIZE**2 * channels` outputs, with a bias.

    `params[LAYER]['kernel']` gets no gradient; it starts as for white images and is meant to be replaced by
    `whitening_kernel`. The optimizer must leave it alone: no gradient is not yet no weight decay.
    """
    return nn.Conv(
        2 * SIZE**2 * channels,
        (SIZE, SIZE),
        padding=0,
        dtype=dtype,
        kernel_init=_unit_patches,
        conv_general_dilated=_frozen_convolution,
        name=LAYER,
    )


def whitening_kernel(images: np.ndarray, epsilon: float = 5e-4) -> np.ndarray:
    """Returns the kernel that whitens the patches of these images.

    Of the second moments of all patches (no mean is subtracted: the images are normalised) it takes the eigenvectors, in
    order of falling eigenvalue, each divided by sqrt(eigenvalue + epsilon) and with its largest entry positive. The
    first half of the outputs has the identity for a matrix of second moments, up to epsilon.

    Args:
      images: floating point `[n, height, width, channels]`, normalised.
      epsilon: keeps what hardly varies from being blown up; the default is that of the source.

    Returns:
      float32 `[SIZE, SIZE, channels, 2 * SIZE**2 * channels]`; the second half of the outputs is the first, negated.

    Raises:
      ConfigError: the images have another shape or no patch.
    """
    if images.ndim != 4 or not len(images) or min(images.shape[1:3]) < SIZE:
        raise ConfigError(f'expected images [n, height, width, channels] of at least {SIZE}x{SIZE} pixels, not {images.shape}')
    values = SIZE**2 * images.shape[3]
    moments, count = np.zeros((values, values)), 0
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        patches = np.lib.stride_tricks.sliding_window_view(block, (SIZE, SIZE), (1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, values).astype(np.float64)
        moments += patches.T @ patches
        count += len(patches)
    eigenvalues, eigenvectors = np.linalg.eigh(moments / count)
    eigenvalues, eigenvectors = eigenvalues[::-1].clip(0), eigenvectors[:, ::-1]
    # An eigenvector is as good with the other sign, and libraries differ in which they return.
    eigenvectors = eigenvectors * np.sign(eigenvectors[np.abs(eigenvectors).argmax(0), np.arange(values)])
    half = eigenvectors / np.sqrt(eigenvalues + epsilon)
    return np.concatenate([half, -half], 1).reshape(SIZE, SIZE, images.shape[3], -1).astype(np.float32)
