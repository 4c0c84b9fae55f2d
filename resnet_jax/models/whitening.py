"""A frozen first layer that whitens small patches of the images, and the computation of its kernel.

The layer's outputs are the patch's principal components, each divided by its standard deviation, and their negatives. With
the negatives, a one-sided activation loses nothing. The idea is from D. Page, "How to train your ResNet 8: Bag of tricks",
2019; the negatives are from K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.2.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.models.layers import bias_in_float32
from resnet_jax.ops.convolution import conv_general_dilated

LAYER = 'whiten'  # the layer's name in the params of every network
SIZE = 2  # height and width of a patch
_BLOCK = 500  # number of images whose patches are in memory at a time


def _frozen_convolution(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    # Skip the unused kernel gradient: at the images' full size it would cost more than the gradient of a later layer.
    return conv_general_dilated(x, jax.lax.stop_gradient(kernel), *args, **kwargs)


def _unit_patches(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Returns the `whitening_kernel` of white images: its outputs are the pixels and their negatives."""
    eye = jnp.eye(shape[-1] // 2, dtype=dtype)
    return jnp.concatenate([eye, -eye], 1).reshape(shape)


def whitening_conv(channels: int, dtype: DTypeLike = jnp.float32) -> Callable[[jax.Array], jax.Array]:
    """Returns the layer for images with `channels` channels: unpadded, `2 * SIZE**2 * channels` outputs, with a bias.

    `params[LAYER]['kernel']` gets no gradient. It is initialised for white images; replace it by `whitening_kernel`. Exclude it
    from the optimizer: weight decay would change it even though it has no gradient.
    """
    layer = nn.Conv(
        2 * SIZE**2 * channels,
        (SIZE, SIZE),
        padding=0,
        dtype=dtype,
        kernel_init=_unit_patches,
        conv_general_dilated=_frozen_convolution,
        promote_dtype=bias_in_float32,
        name=LAYER,
    )
    return lambda x: layer(x).astype(dtype)


def whitening_kernel(images: np.ndarray, epsilon: float = 5e-4) -> np.ndarray:
    """Returns the kernel that whitens the patches of these images.

    Computes the eigenvectors of the second-moment matrix of all patches (no mean is subtracted: the images are normalised),
    in order of decreasing eigenvalue, each divided by sqrt(eigenvalue + epsilon) and with its largest entry positive. The
    second-moment matrix of the first half of the outputs is then the identity, up to epsilon.

    Args:
      images: floating point `[n, height, width, channels]`, normalised.
      epsilon: limits how much directions of low variance are amplified; the default is the source's.

    Returns:
      float32 `[SIZE, SIZE, channels, 2 * SIZE**2 * channels]`; the second half of the outputs is the first, negated.

    Raises:
      ConfigError: the images have the wrong shape or no patch.
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
    # The sign of an eigenvector is arbitrary and depends on the library.
    eigenvectors = eigenvectors * np.sign(eigenvectors[np.abs(eigenvectors).argmax(0), np.arange(values)])
    half = eigenvectors / np.sqrt(eigenvalues + epsilon)
    return np.concatenate([half, -half], 1).reshape(SIZE, SIZE, images.shape[3], -1).astype(np.float32)
