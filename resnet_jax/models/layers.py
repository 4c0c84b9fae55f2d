"""Layers and initialisers that all models share.

Kernels are initialised as in He et al., 2015 (arXiv:1502.01852), equation 14: normal with variance 2 / fan_out, not
truncated, as in torchvision's ResNet. Biases are zero. The last linear layer is initialised like PyTorch's default `Linear`,
uniform within +-1 / sqrt(fan_in), except that its bias is zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from resnet_jax.ops.convolution import conv_general_dilated

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# A uniform distribution within +-limit has variance limit^2 / 3.
linear_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def conv2d(
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    padding: int | Sequence[tuple[int, int]] | None = None,
    groups: int = 1,
    use_bias: bool = False,
    dtype: DTypeLike = jnp.float32,
    kernel_init: nn.initializers.Initializer = he_normal,
    name: str | None = None,
) -> Callable[[jax.Array], jax.Array]:
    """Returns a square convolution with float32 parameters.

    `padding` is one number for every side or ((top, bottom), (left, right)); by default kernel_size // 2.
    """
    # Not padding='SAME': with stride 2 and even sizes XLA pads only after the image, PyTorch before and after it.
    layer = nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides,
        padding=kernel_size // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        promote_dtype=bias_in_float32,
        name=name,
    )
    return lambda x: layer(x).astype(dtype)


def dense(
    features: int, *, dtype: DTypeLike, kernel_init: nn.initializers.Initializer = he_normal, name: str | None = None
) -> Callable[[jax.Array], jax.Array]:
    """Returns a linear layer with float32 parameters that computes in `dtype`."""
    layer = nn.Dense(features, dtype=dtype, kernel_init=kernel_init, promote_dtype=bias_in_float32, name=name)
    return lambda x: layer(x).astype(dtype)


def bias_in_float32(*arrays: jax.Array | None, dtype: Any = None, inexact: bool = True) -> list[jax.Array | None]:
    """The `promote_dtype` of a bfloat16 layer that adds its bias in float32; round the layer's output afterwards.

    The gradient of a bias is a sum over all pixels of a batch. In bfloat16 the sum stops growing when it is 256 times as large
    as a summand.
    """
    *others, bias = arrays
    promoted: list[jax.Array | None] = promote_dtype(*others, dtype=dtype, inexact=inexact)
    return [*promoted, None if bias is None else bias.astype(jnp.promote_types(dtype, jnp.float32))]


def sow_features(module: nn.Module, name: str, x: jax.Array) -> None:
    """Sows x as `name` under `apply(..., mutable=['intermediates'])`; otherwise does nothing."""
    module.sow('intermediates', name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
