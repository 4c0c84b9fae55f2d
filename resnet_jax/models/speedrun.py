"""Small networks with a frozen whitening stem, from speed records: the least time to 94 % and 96 % on CIFAR-10.

K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 2, and the networks of its later
records in github.com/KellerJordan/cifar10-airbench: airbench94_muon.py (speedrun94), airbench96_faster.py (speedrun96).

  layer                                        | speedrun94 | speedrun96
  whiten: 2x2 unpadded, 24, frozen; act        | 31x31x24   | 31x31x24
  layer1: conv1 3x3, pool 2, bn1, act          | 15x15x64   | 15x15x128
          conv2 3x3, bn2, act                  | 15x15x64   | 15x15x128
          conv3 3x3, bn3, plus bn1's act, act  |            | 15x15x128
  layer2: the same                             | 7x7x256    | 7x7x384
  layer3: the same                             | 3x3x256    | 3x3x512
  max pool over all remaining pixels, fc, times a constant

Convolutions have no bias and BatchNorm has no scale. A convolution with as many outputs as inputs is initialised as the
identity. If it has more outputs, the first ones are the identity and the others have random kernels. So every group passes
its input on from the start.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.models.activations import Activation, gelu
from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import ModuleDef
from resnet_jax.models.checks import check_dtype, check_images, check_positive, check_positive_int, check_rate, head_dtype
from resnet_jax.models.layers import conv2d, linear_uniform, sow_features
from resnet_jax.models.whitening import SIZE, whitening_conv
from resnet_jax.ops.pooling import global_max_pool, max_pool

_MOST_GROUPS = 20


def unit_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Returns uniform random values with variance 1."""
    return jax.random.uniform(key, shape, dtype, -(3**0.5), 3**0.5)


def partial_identity(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Returns a kernel `[height, width, in, out]`: the first outputs copy the inputs, the others are random as in PyTorch."""
    height, width, inputs, outputs = shape
    identity = jnp.zeros(shape, dtype).at[height // 2, width // 2].set(jnp.eye(inputs, outputs, dtype=dtype))
    return jnp.where(jnp.arange(outputs) < inputs, identity, linear_uniform(key, shape, dtype))


class ConvGroup(nn.Module):
    """`depth` 3x3 convolutions. A pool after the first halves the size; bn1's activation is added after a third."""

    filters: int
    depth: int
    conv: ModuleDef
    norm: ModuleDef
    act: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # For odd sizes, does not compute the last row and column: the pool would drop them.
        padding = [(1, 1 - size % 2) for size in x.shape[1:3]]
        # Pool before BatchNorm, so that it normalises only a quarter of the pixels.
        x = max_pool(self.conv(self.filters, 3, padding=padding, name='conv1')(x), 2, 2)
        x = self.act(self.norm(name='bn1')(x))
        y = self.conv(self.filters, 3, name='conv2')(x)
        y = self.act(self.norm(name='bn2')(y))
        if self.depth == 2:
            return y
        y = self.conv(self.filters, 3, name='conv3')(y)
        return self.act(self.norm(name='bn3')(y) + x)


class SpeedrunNet(nn.Module):
    """A network of a speed record. `apply({'params', 'batch_stats'}, images, train=bool)` returns logits.

    Attributes:
      num_classes: number of logits.
      widths: filters of each group of convolutions.
      depth: convolutions per group: 2, or 3 with a shortcut around the last two.
      logit_scale: multiplies the logits. The last layer's kernel is initialised with variance 1.
      batch_norm_momentum: fraction of the running statistics that a step keeps (PyTorch's momentum is 1 minus this).
      dtype: compute dtype of the convolutions, float32 or bfloat16; parameters, batch statistics, the head and the logits
        are float32. See `ResNet` for float64.
      act: the activation.
      axis_name: mapped axis over which batch statistics are averaged in training, or None; as in `ResNet`.

    Raises:
      ConfigError: an attribute is out of range.
    """

    num_classes: int = 10
    widths: Sequence[int] = (64, 256, 256)
    depth: int = 2
    logit_scale: float = 1 / 256
    batch_norm_momentum: float = 0.6
    dtype: DTypeLike = jnp.float32
    act: Activation = gelu
    axis_name: str | None = None
    whitening: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive_int('num_classes', self.num_classes)
        if not isinstance(self.widths, tuple | list) or not self.widths:
            raise ConfigError(f'widths must be a tuple with the filters of each group, as (64, 256, 256), not {self.widths!r}')
        if len(self.widths) > _MOST_GROUPS:
            raise ConfigError(f'widths has {len(self.widths)} groups; expected at most {_MOST_GROUPS}: each halves the image')
        for width in self.widths:
            check_positive_int('each of widths', width)
        if self.depth not in (2, 3):
            raise ConfigError(f'depth must be 2 or 3 convolutions in a group, not {self.depth!r}')
        check_positive('logit_scale', self.logit_scale)
        check_rate('batch_norm_momentum', self.batch_norm_momentum)
        check_dtype(self.dtype)
        if not callable(self.act):
            raise ConfigError(f'act must be a function, not {self.act!r}')
        object.__setattr__(self, 'widths', tuple(self.widths))  # a list has no hash
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point. They may have any number of channels and must
            be large enough to be halved once per group: at least 9x9 for three groups.
          train: as in `ResNet`.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have the wrong shape, are too small or are not floating point.
        """
        check_images(images, min_size=SIZE - 1 + 2 ** len(self.widths))
        conv = functools.partial(conv2d, dtype=self.dtype, kernel_init=partial_identity)
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.batch_norm_momentum,
            epsilon=1e-12,
            use_scale=False,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        x = self.act(whitening_conv(images.shape[3], self.dtype)(images))
        sow_features(self, 'stem', x)
        for number, width in enumerate(self.widths, 1):
            x = ConvGroup(width, self.depth, conv, norm, self.act, name=f'layer{number}')(x)
            sow_features(self, f'stage{number}', x)
        x = global_max_pool(x.astype(head_dtype(self.dtype)))
        sow_features(self, 'pooled', x)
        return self.logit_scale * nn.Dense(self.num_classes, use_bias=False, kernel_init=unit_uniform, name='fc')(x)
