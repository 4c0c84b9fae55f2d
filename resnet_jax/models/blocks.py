"""Residual blocks and shortcuts, what `ResNet` varies.

A block is a module with the fields of `Block`, which `ResNet` fills in: `conv(features, kernel_size, strides)` and
`norm()` make layers, `shortcut(x, features, strides)` gives what is added, `branch(y)` is applied to what it is added to
(squeeze-and-excitation, stochastic depth). Each returns `[batch, height / strides, width / strides, channels]` in its
input's dtype. Names of layers are PyTorch's; resnet.py has the table.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError
from resnet_jax.models.checks import check_positive_int
from resnet_jax.models.layers import Activation
from resnet_jax.ops.pooling import average_pool

ModuleDef = Callable[..., Callable[..., jax.Array]]  # makes a layer or a block: a class of modules or a function
Shortcut = Callable[..., jax.Array | float]


def projection_shortcut(
    x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None, *, conv: ModuleDef, average: bool = False
) -> jax.Array:
    """Option B: a 1x1 convolution (and `norm`, unless None) where the shape changes, else x as it is.

    With `average` a 2x2 average pool takes the stride, and the convolution has none: ResNet-D (He et al., "Bag of Tricks
    for Image Classification with Convolutional Neural Networks", arXiv:1812.01187, figure 2c).
    """
    if strides == 1 and x.shape[-1] == features:
        return x
    if average and strides > 1:
        x, strides = average_pool(x, strides, ceil_mode=True), 1
    x = conv(features, 1, strides, name='downsample_conv')(x)
    return x if norm is None else norm(name='downsample_bn')(x)


def identity_shortcut(x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None) -> jax.Array:
    """Option A, without parameters: every `strides`-th pixel, and zero channels added half before, half after."""
    missing = features - x.shape[-1]
    if missing < 0:
        raise ConfigError(f"shortcut='identity' cannot go from {x.shape[-1]} to {features} channels; use 'projection'")
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])


def no_shortcut(x: jax.Array, features: int, strides: int, norm: ModuleDef | None = None) -> float:
    """Nothing is added: a plain network (He et al., section 3.3)."""
    return 0.0


def squeeze_excite(y: jax.Array, *, conv: ModuleDef, reduction: int = 16) -> jax.Array:
    """Scales each channel by a function of all channels' means: Hu et al., arXiv:1709.01507, section 3.

    The hidden width is channels / reduction, rounded to a multiple of 8 as in timm; the paper does not round.
    """
    channels = y.shape[-1]
    hidden = max(8, (channels // reduction + 4) // 8 * 8)
    scale = jnp.mean(y, axis=(1, 2), keepdims=True)
    scale = nn.relu(conv(hidden, 1, use_bias=True, name='se_fc1')(scale))
    return y * nn.sigmoid(conv(channels, 1, use_bias=True, name='se_fc2')(scale))


def drop_branch(y: jax.Array, *, rate: float, train: bool) -> jax.Array:
    """Stochastic depth: in training y is 0 for a share `rate` of the examples, divided by 1 - rate for the others."""
    dropout: Activation = nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)
    return dropout(y)


def unchanged(y: jax.Array) -> jax.Array:
    return y


def no_norm(name: str) -> Activation:
    """In the place of `norm` it leaves its input as it is."""
    return unchanged


def block_fields(block_cls: ModuleDef) -> dict[str, object]:
    """The fields a block class has, and `preactivation`; of what is not a class of modules, nothing."""
    while isinstance(block_cls, functools.partial):
        block_cls = block_cls.func
    if not dataclasses.is_dataclass(block_cls):
        return {}
    fields: dict[str, object] = {field.name: field for field in dataclasses.fields(block_cls)}
    return fields | {'preactivation': getattr(block_cls, 'preactivation', False)}


class Block(nn.Module):
    """What every block has; `filters` decides its width. In a pre-activation block norm and act come before each conv."""

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
        return self.act(self.branch(y) + self.shortcut(x, self.filters, self.strides))


class ThreeConvBlock(Block):
    """BasicBlock with a third 3x3 convolution and BatchNorm, as the study that README.md names tried it."""

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
        return self.act(self.branch(y) + self.shortcut(x, self.filters, self.strides))


class BottleneckBlock(Block):
    """1x1, 3x3 and 1x1 convolutions to 4 * filters channels: He et al., figure 5 right.

    The 3x3 one has `groups` of `base_width * filters / 64` channels: more than one group makes a ResNeXt (Xie et al.,
    arXiv:1611.05431, figure 3c), a larger base_width a wide bottleneck (Zagoruyko and Komodakis, arXiv:1605.07146).
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
        return self.act(self.branch(y) + self.shortcut(x, 4 * self.filters, self.strides))


class D2LResNeXtBlock(Block):
    """D2L's ResNeXtBlock with bot_mul = 1 (section 8.6.5): BottleneckBlock, but `filters` channels all along.

    `group_width`, channels of each group, is what the book's code calls `groups`. Its 1x1 shortcut has a BatchNorm.
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
        return self.act(self.branch(y) + self.shortcut(x, self.filters, self.strides, norm=self.norm))


class PreActBlock(Block):
    """BasicBlock with BatchNorm and ReLU before each convolution: He et al., arXiv:1603.05027, figure 1b.

    A projection sees the activated input, x itself is added where the shape stays. `dropout()` is between the
    convolutions, as in a Wide ResNet (arXiv:1605.07146, figure 1d).
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
    """BottleneckBlock with BatchNorm and ReLU before each convolution; otherwise as PreActBlock."""

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
