"""Residual blocks and shortcuts for `ResNet`.

A block is a module with the fields of `Block`, which `ResNet` fills in: `conv(features, kernel_size, strides)` and
`norm()` make layers, `shortcut(x, features, strides)` computes the shortcut, and `branch(y)` is applied to the residual
branch before the addition (squeeze-and-excitation, stochastic depth). Each block returns
`[batch, height / strides, width / strides, channels]` in its input's dtype. Layers have PyTorch's names; see the table in
resnet.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError
from resnet_jax.models.activations import Activation, act_of_sum
from resnet_jax.models.checks import check_positive_int
from resnet_jax.ops.pooling import average_pool

ModuleDef = Callable[..., Callable[..., jax.Array]]  # makes a layer or a block: a module class or a function
Shortcut = Callable[..., jax.Array | float]


def projection_shortcut(
    x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None, *, conv: ModuleDef, average: bool = False
) -> jax.Array:
    """Option B: applies a 1x1 convolution (and `norm`, unless None) if the shape changes; otherwise returns x.

    With `average`, a 2x2 average pool replaces the stride of the convolution: ResNet-D (He et al., "Bag of Tricks for Image
    Classification with Convolutional Neural Networks", arXiv:1812.01187, figure 2c).
    """
    if strides == 1 and x.shape[-1] == features:
        return x
    if average and strides > 1:
        x, strides = average_pool(x, strides, ceil_mode=True), 1
    x = conv(features, 1, strides, name='downsample_conv')(x)
    return x if norm is None else norm(name='downsample_bn')(x)


def identity_shortcut(x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None) -> jax.Array:
    """Option A, without parameters: takes every `strides`-th pixel and adds zero channels, half before and half after.

    Raises:
      ConfigError: the input has more than `features` channels.
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ConfigError(f"shortcut='identity' cannot go from {x.shape[-1]} to {features} channels; use 'projection'")
    x = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, strides, strides, 1))  # not x[:, ::strides], which may become a gather
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])


def no_shortcut(x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None) -> float:
    """Adds nothing, for a plain network (He et al., section 3.3)."""
    return 0.0


def squeeze_excite(y: jax.Array, *, conv: ModuleDef, reduction: int = 16) -> jax.Array:
    """Scales each channel by a function of the means of all channels: Hu et al., arXiv:1709.01507, section 3.

    The hidden width is channels / reduction, rounded to a multiple of 8 as in timm; the paper does not round.
    """
    channels = y.shape[-1]
    hidden = max(8, (channels // reduction + 4) // 8 * 8)
    scale = jnp.mean(y, axis=(1, 2), keepdims=True)
    scale = nn.relu(conv(hidden, 1, use_bias=True, name='se_fc1')(scale))
    scale = nn.sigmoid(conv(channels, 1, use_bias=True, name='se_fc2')(scale))
    # In bfloat16 the gradient of the scale, a sum over all pixels, would be bfloat16 too.
    return (y * scale.astype(jnp.promote_types(y.dtype, jnp.float32))).astype(y.dtype)


def drop_branch(y: jax.Array, *, rate: float, train: bool) -> jax.Array:
    """Stochastic depth: in training, sets y of an example to 0 with probability `rate`; otherwise divides it by 1 - rate."""
    dropout: Activation = nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)
    return dropout(y)


def unchanged(y: jax.Array) -> jax.Array:
    """Returns its argument: the branch of a block without stochastic depth."""
    return y


def no_norm(name: str) -> Activation:
    """Replaces `norm` by the identity."""
    return unchanged


def block_fields(block_cls: ModuleDef) -> dict[str, object]:
    """Returns the fields of a block class and its `preactivation`; {} if `block_cls` is not a module class."""
    while isinstance(block_cls, functools.partial):
        block_cls = block_cls.func
    if not dataclasses.is_dataclass(block_cls):
        return {}
    fields: dict[str, object] = {field.name: field for field in dataclasses.fields(block_cls)}
    return fields | {'preactivation': getattr(block_cls, 'preactivation', False)}


class Block(nn.Module):
    """Fields of every block; `filters` sets its width. In a pre-activation block, norm and act come before each conv."""

    filters: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    act: Activation
    shortcut: Shortcut
    branch: Activation = unchanged
    preactivation: ClassVar[bool] = False


class BasicBlock(Block):
    """Two 3x3 convolutions to `filters` channels: He et al., figure 5 left."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 3, self.strides, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        return act_of_sum(self.act, self.branch(y), self.shortcut(x, self.filters, self.strides))


class ThreeConvBlock(Block):
    """BasicBlock with a third 3x3 convolution and BatchNorm, as in a study that README.md names."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 3, self.strides, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        return act_of_sum(self.act, self.branch(y), self.shortcut(x, self.filters, self.strides))


class BottleneckBlock(Block):
    """1x1, 3x3 and 1x1 convolutions to 4 * filters channels: He et al., figure 5 right.

    The 3x3 convolution has `groups` groups of `base_width * filters / 64` channels. Several groups make a ResNeXt (Xie et al.,
    arXiv:1611.05431, figure 3c); a larger base_width makes a wide bottleneck (Zagoruyko and Komodakis, arXiv:1605.07146).
    """

    groups: int = 1
    base_width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_positive_int('groups', self.groups)
        check_positive_int('base_width', self.base_width)
        width = self.filters * self.base_width // 64 * self.groups
        if width == 0:
            raise ConfigError(f'a base_width of {self.base_width} leaves no channels; need at least 64 / num_filters')
        y = self.conv(width, 1, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(width, 3, self.strides, groups=self.groups, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.act(y)
        y = self.conv(4 * self.filters, 1, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        return act_of_sum(self.act, self.branch(y), self.shortcut(x, 4 * self.filters, self.strides))


class D2LResNeXtBlock(Block):
    """D2L's ResNeXtBlock with bot_mul = 1 (section 8.6.5): BottleneckBlock, but with `filters` channels throughout.

    `group_width` is the number of channels per group, which the book's code calls `groups`. The 1x1 shortcut has a BatchNorm.
    """

    group_width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_positive_int('group_width', self.group_width)
        if self.filters % self.group_width:
            raise ConfigError(f'{self.filters} filters do not divide into groups of {self.group_width}')
        y = self.conv(self.filters, 1, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, self.strides, groups=self.filters // self.group_width, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.act(y)
        y = self.conv(self.filters, 1, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        return act_of_sum(self.act, self.branch(y), self.shortcut(x, self.filters, self.strides, norm=self.norm))


class PreActBlock(Block):
    """BasicBlock with BatchNorm and ReLU before each convolution: He et al., arXiv:1603.05027, figure 1b.

    A projection takes the activated input; if the shape does not change, x itself is added. `dropout()` is applied between
    the convolutions, as in a Wide ResNet (arXiv:1605.07146, figure 1d).
    """

    dropout: ModuleDef | None = None
    preactivation: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        changes = self.strides > 1 or x.shape[-1] != self.filters
        y = self.act(self.norm(name='bn1')(x))
        skip = self.shortcut(y if changes else x, self.filters, self.strides)
        y = self.conv(self.filters, 3, self.strides, name='conv1')(y)
        y = self.act(self.norm(name='bn2')(y))
        if self.dropout is not None:
            y = self.dropout()(y)
        y = self.conv(self.filters, 3, name='conv2')(y)
        return self.branch(y) + skip


class PreActBottleneckBlock(Block):
    """BottleneckBlock with BatchNorm and ReLU before each convolution; otherwise like PreActBlock."""

    dropout: ModuleDef | None = None
    preactivation: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        changes = self.strides > 1 or x.shape[-1] != 4 * self.filters
        y = self.act(self.norm(name='bn1')(x))
        skip = self.shortcut(y if changes else x, 4 * self.filters, self.strides)
        y = self.conv(self.filters, 1, name='conv1')(y)
        y = self.act(self.norm(name='bn2')(y))
        y = self.conv(self.filters, 3, self.strides, name='conv2')(y)
        y = self.act(self.norm(name='bn3')(y))
        if self.dropout is not None:
            y = self.dropout()(y)
        y = self.conv(4 * self.filters, 1, name='conv3')(y)
        return self.branch(y) + skip
