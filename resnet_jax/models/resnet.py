"""Residual networks: one parametric `ResNet`, varied by its block class.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385: section 3.3 and table 1 (ImageNet form),
section 4.2 (CIFAR form, shortcut option A). As in torchvision ("v1.5") a bottleneck's stride is on its 3x3 convolution.
The D2L form is that of Dive into Deep Learning, section 8.6.

Parameter names, and PyTorch's names for the same arrays. `<block>` is `layer<stage>_<index>` here (stages count from
1, blocks from 0) and `layer<stage>.<index>` there.

  here                     | torchvision            | differs elsewhere
  conv1, bn1               | conv1, bn1             | D2L: net.0.0, net.0.1
  <block>/conv1, bn1, ...  | <block>.conv1, bn1 ... | D2L: <block> is net.b<stage + 1>.<index>
  <block>/downsample_conv  | <block>.downsample.0   | kuangliu: <block>.shortcut.0; D2L: <block>.conv3; akamaster: none
  <block>/downsample_bn    | <block>.downsample.1   | kuangliu: <block>.shortcut.1; D2L, akamaster: none
  fc                       | fc                     | kuangliu, akamaster: linear; D2L: net.last.2

  params/<conv>/kernel [height, width, in, out]  | weight [out, in, height, width]; bias: bias
  params/<bn>/scale, bias                        | weight, bias
  params/fc/kernel [in, out], bias               | weight [out, in], bias
  batch_stats/<bn>/mean, var                     | running_mean, running_var
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.models.checks import check_choice, check_dtype, check_images, check_positive_int, check_stage_sizes
from resnet_jax.models.layers import conv2d, linear_uniform
from resnet_jax.models.pooling import max_pool

ModuleDef = Callable[..., Any]

STEMS = ('cifar', 'imagenet', 'd2l')
SHORTCUTS = ('projection', 'identity')


def projection_shortcut(x: jax.Array, features: int, strides: int, *, conv: ModuleDef, norm: ModuleDef | None) -> jax.Array:
    """Option B: a 1x1 convolution (and `norm`, unless None) where the shape changes, else x as it is."""
    if strides == 1 and x.shape[-1] == features:
        return x
    x = conv(features, 1, strides, name='downsample_conv')(x)
    return x if norm is None else norm(name='downsample_bn')(x)


def identity_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Option A, without parameters: every `strides`-th pixel, and zero channels added half before, half after."""
    missing = features - x.shape[-1]
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (He et al., figure 5 left); output `[batch, height / strides, width / strides, filters]`."""

    filters: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    act: Callable
    shortcut: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 3, self.strides, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        return self.act(y + self.shortcut(x, self.filters, self.strides))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (He et al., figure 5 right); as BasicBlock, but 4 * filters channels."""

    filters: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    act: Callable
    shortcut: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.filters, 1, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = self.act(y)
        y = self.conv(self.filters, 3, self.strides, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.act(y)
        y = self.conv(4 * self.filters, 1, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        return self.act(y + self.shortcut(x, 4 * self.filters, self.strides))


class ResNet(nn.Module):
    """A residual network. `apply({'params', 'batch_stats'}, images, train=bool)` returns logits.

    Attributes:
      stage_sizes: blocks in each stage. Every stage after the first halves height and width and doubles the filters.
      block_cls: BasicBlock, BottleneckBlock or any module with their fields.
      num_classes: number of logits.
      num_filters: filters of the stem and of the first stage's blocks.
      stem: 'cifar' is a 3x3 convolution; 'imagenet' a 7x7 convolution of stride 2 and a 3x3 max pool of stride 2; 'd2l'
        as 'imagenet', and besides every convolution of the network has a bias and a 1x1 shortcut has no BatchNorm.
      shortcut: 'projection' is option B of He et al., section 3.3 and table 3; 'identity' is option A. Both work with
        either block.
      dtype: float32 or bfloat16, what the convolutions compute in. Parameters, batch statistics, the head and the
        logits are float32 in any case.
      act: the activation.
      axis_name: the mapped axis over which training batches' statistics are averaged (cross-device BatchNorm), or None
        for statistics of each device's own batch.

    Raises:
      ConfigError: an attribute is out of range.
    """

    stage_sizes: Sequence[int]
    block_cls: ModuleDef = BasicBlock
    num_classes: int = 10
    num_filters: int = 64
    stem: str = 'cifar'
    shortcut: str = 'projection'
    dtype: DTypeLike = jnp.float32
    act: Callable = nn.relu
    axis_name: str | None = None

    def __post_init__(self):
        check_stage_sizes(self.stage_sizes)
        check_positive_int('num_classes', self.num_classes)
        check_positive_int('num_filters', self.num_filters)
        check_choice('stem', self.stem, STEMS)
        check_choice('shortcut', self.shortcut, SHORTCUTS)
        check_dtype(self.dtype)
        for field in ('block_cls', 'act'):
            if not callable(getattr(self, field)):
                raise ConfigError(f'{field} must be a class or function, not {getattr(self, field)!r}')
        if not isinstance(self.axis_name, str | None):
            raise ConfigError(f'axis_name must be the name of a mapped axis or None, not {self.axis_name!r}')
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point, of any size from 1x1 and any number of
            channels.
          train: True normalises by the batch and updates `batch_stats` (pass `mutable=['batch_stats']`); False
            normalises by `batch_stats`.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have another shape or are not floating point.
        """
        check_images(images)
        d2l = self.stem == 'd2l'
        conv = functools.partial(conv2d, use_bias=d2l, dtype=self.dtype)
        # Flax's momentum is the fraction kept: this is PyTorch's 0.1. The running variance is the biased one, where
        # PyTorch's has the factor n / (n - 1).
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        shortcut = identity_shortcut
        if self.shortcut == 'projection':
            shortcut = functools.partial(projection_shortcut, conv=conv, norm=None if d2l else norm)
        block = functools.partial(self.block_cls, conv=conv, norm=norm, act=self.act, shortcut=shortcut)

        if self.stem == 'cifar':
            x = conv(self.num_filters, 3, name='conv1')(images)
        else:
            x = conv(self.num_filters, 7, 2, name='conv1')(images)
        x = norm(name='bn1')(x)
        x = self.act(x)
        if self.stem != 'cifar':
            x = max_pool(x, 3, 2, padding=1)

        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                strides = 2 if stage > 0 and index == 0 else 1
                x = block(self.num_filters * 2**stage, strides, name=f'layer{stage + 1}_{index}')(x)

        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=linear_uniform, name='fc')(x)
