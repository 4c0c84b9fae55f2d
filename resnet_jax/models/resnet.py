"""Residual networks: one parametric `ResNet`, varied by its block class (blocks.py).

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385: section 3.3 and table 1 (ImageNet form),
section 4.2 (CIFAR form, shortcut option A). As in torchvision ("v1.5") a bottleneck's stride is on its 3x3 convolution.
The D2L form is from Dive into Deep Learning, section 8.6.

The table lists parameter names and PyTorch's names for the same arrays. `<block>` is `layer<stage>_<index>` here and
`layer<stage>.<index>` in PyTorch; stages are counted from 1, blocks from 0.

  here                      | torchvision, timm      | differs elsewhere
  conv1, bn1                | conv1, bn1             | D2L: net.0.0, net.0.1
  stem_conv1, stem_bn1      | timm: conv1.0, conv1.1 | only with stem='deep', which has no conv1
  stem_conv2, stem_bn2      | timm: conv1.3, conv1.4 |
  stem_conv3                | timm: conv1.6          |
  <block>/conv1, bn1, ...   | <block>.conv1, bn1 ... | D2L: <block> is net.b<stage + 1>.<index>
  <block>/downsample_conv   | <block>.downsample.0   | kuangliu: <block>.shortcut.0; D2L: <block>.conv3, of a ResNeXt conv4;
                            |                        | timm with shortcut='average': downsample.1; akamaster: none
  <block>/downsample_bn     | <block>.downsample.1   | kuangliu: <block>.shortcut.1; D2L's ResNeXt: <block>.bn4, ResNet: none;
                            |                        | timm with shortcut='average': downsample.2; akamaster: none
  <block>/se_fc1, se_fc2    | timm: <block>.se.fc1   |
  final_bn                  |                        | WideResNet-pytorch: bn1; only with a pre-activation block and final_norm
  (pre-activation)          |                        | WideResNet-pytorch: block<stage>.layer.<index>, with convShortcut
  fc                        | fc                     | kuangliu, akamaster: linear; D2L: net.last.2

  params/<conv>/kernel [height, width, in / groups, out]  | weight [out, in / groups, height, width]; bias: bias
  params/<bn>/scale, bias                                 | weight, bias
  params/fc/kernel [in, out], bias                        | weight [out, in], bias
  batch_stats/<bn>/mean, var                              | running_mean, running_var
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resnet_jax.errors import ConfigError
from resnet_jax.models.activations import Activation, relu
from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import (
    BasicBlock,
    ModuleDef,
    Shortcut,
    block_fields,
    drop_branch,
    identity_shortcut,
    no_norm,
    no_shortcut,
    projection_shortcut,
    squeeze_excite,
)
from resnet_jax.models.checks import (
    check_choice,
    check_dtype,
    check_filters,
    check_images,
    check_positive_int,
    check_rate,
    check_stage_sizes,
    head_dtype,
)
from resnet_jax.models.layers import conv2d, he_normal, linear_uniform, sow_features
from resnet_jax.models.whitening import SIZE, whitening_conv
from resnet_jax.ops.pooling import max_pool

STEMS = ('cifar', 'imagenet', 'd2l', 'deep', 'whitening')
SHORTCUTS = ('projection', 'identity', 'average', 'none')
NORMS = ('batch', 'none')
KERNEL_INITS = {'he_normal': he_normal, 'xavier_uniform': nn.initializers.xavier_uniform()}


class ResNet(nn.Module):
    """A residual network. `apply({'params', 'batch_stats'}, images, train=bool)` returns logits.

    Attributes:
      stage_sizes: number of blocks in each stage. Every stage after the first halves height and width and doubles the filters.
      block_cls: a class of blocks.py, or any module class with the fields of `Block`.
      num_classes: number of logits.
      num_filters: filters of the first stage's blocks.
      stem_filters: filters of the stem; None for num_filters.
      stem: 'cifar' is a 3x3 convolution; 'imagenet' is a 7x7 convolution with stride 2 and a 3x3 max pool with stride 2;
        'd2l' is 'imagenet' with a bias in every convolution of the network and no BatchNorm in 1x1 shortcuts; 'deep' is
        ResNet-D's: 'imagenet' with three 3x3 convolutions instead of the 7x7 one; 'whitening' is 'cifar' after the frozen
        layer of whitening.py. A pre-activation block needs 'cifar'.
      shortcut: 'projection' is option B of He et al., section 3.3 and table 3; 'identity' is option A; 'average' is
        ResNet-D's, an average pool before a projection; 'none' makes a plain network.
      squeeze_excite: whether each block's channels are scaled before the addition.
      dropout: share of the activations dropped between the last two convolutions of a pre-activation block.
      stochastic_depth: probability that an example skips the last block in training; for block l of L the probability is l / L
        times this (Huang et al., arXiv:1603.09382, section 3). Like dropout, it needs the 'dropout' rng in training.
      norm: 'batch' is BatchNorm; 'none' omits it everywhere and gives every convolution a bias instead.
      kernel_init: initialiser of the convolutions: 'he_normal' (layers.py) or D2L's 'xavier_uniform' (Glorot and Bengio
        2010).
      final_norm: whether BatchNorm and act follow the last pre-activation block, as in He et al., arXiv:1603.05027.
      dtype: compute dtype of the convolutions, float32 or bfloat16; parameters, batch statistics, the head and the logits are
        float32. With float64, which needs jax_enable_x64, the logits are float64 too; parameters are initialised as float32,
        and may be converted.
      act: the activation.
      axis_name: mapped axis over which batch statistics are averaged in training (cross-device BatchNorm); None to use the
        statistics of each device's shard.

    Raises:
      ConfigError: an attribute is out of range, or conflicts with another.
    """

    stage_sizes: Sequence[int]
    block_cls: ModuleDef = BasicBlock
    num_classes: int = 10
    num_filters: int = 64
    stem_filters: int | None = None
    stem: str = 'cifar'
    shortcut: str = 'projection'
    squeeze_excite: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    norm: str = 'batch'
    kernel_init: str = 'he_normal'
    final_norm: bool = True
    dtype: DTypeLike = jnp.float32
    act: Activation = relu
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_stage_sizes(self.stage_sizes)
        check_positive_int('num_classes', self.num_classes)
        check_positive_int('num_filters', self.num_filters)
        check_filters('stage_sizes', self.num_filters, len(self.stage_sizes))
        if self.stem_filters is not None:
            check_positive_int('stem_filters', self.stem_filters)
        check_choice('stem', self.stem, STEMS)
        check_choice('shortcut', self.shortcut, SHORTCUTS)
        check_choice('norm', self.norm, NORMS)
        check_choice('kernel_init', self.kernel_init, tuple(KERNEL_INITS))
        check_rate('dropout', self.dropout)
        check_rate('stochastic_depth', self.stochastic_depth)
        check_dtype(self.dtype)
        for field in ('block_cls', 'act'):
            if not callable(getattr(self, field)):
                raise ConfigError(f'{field} must be a class or function, not {getattr(self, field)!r}')
        if not isinstance(self.axis_name, str | None):
            raise ConfigError(f'axis_name must be the name of a mapped axis or None, not {self.axis_name!r}')
        _check_combinations(self)
        object.__setattr__(self, 'stage_sizes', tuple(self.stage_sizes))  # a list has no hash
        super().__post_init__()

    @property
    def whitening(self) -> bool:
        """Whether the network has a whitening layer, which needs a `whitening_kernel`."""
        return self.stem == 'whitening'

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes logits.

        Args:
          images: `[batch, height, width, channels]`, normalised, floating point, with any number of channels and any size
            from 1x1 (2x2 with the 'whitening' stem).
          train: if True, normalises by the statistics of the batch and updates `batch_stats` (pass `mutable=['batch_stats']`);
            if False, normalises by `batch_stats`.

        Returns:
          Logits `[batch, num_classes]`, float32.

        Raises:
          ConfigError: images have the wrong shape, are too small or are not floating point.
        """
        check_images(images, min_size=SIZE if self.whitening else 1)
        conv = functools.partial(
            conv2d,
            use_bias=self.stem == 'd2l' or self.norm == 'none',
            dtype=self.dtype,
            kernel_init=KERNEL_INITS[self.kernel_init],
        )
        # Flax's momentum is the fraction kept: this is PyTorch's 0.1. Flax's running variance is biased; PyTorch's has the
        # factor n / (n - 1).
        norm: ModuleDef = functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        if self.norm == 'none':
            norm = no_norm
        preactivation = bool(block_fields(self.block_cls).get('preactivation'))

        x = self._stem(images, conv, norm, preactivation)
        sow_features(self, 'stem', x)
        number = 0
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                number += 1
                block = self._block(conv, norm, preactivation, number, train)
                strides = 2 if stage > 0 and index == 0 else 1
                x = block(self.num_filters * 2**stage, strides, name=f'layer{stage + 1}_{index}')(x)
            if preactivation and self.final_norm and stage == len(self.stage_sizes) - 1:
                x = self.act(norm(name='final_bn')(x))
            sow_features(self, f'stage{stage + 1}', x)

        x = jnp.mean(x, axis=(1, 2), dtype=head_dtype(self.dtype))
        sow_features(self, 'pooled', x)
        return nn.Dense(self.num_classes, kernel_init=linear_uniform, name='fc')(x)

    def _stem(self, x: jax.Array, conv: ModuleDef, norm: ModuleDef, preactivation: bool) -> jax.Array:
        filters = self.stem_filters or self.num_filters
        if self.stem == 'whitening':
            x = self.act(whitening_conv(x.shape[3], self.dtype)(x))
        if self.stem in ('cifar', 'whitening'):
            x = conv(filters, 3, name='conv1')(x)
            if preactivation:
                return x
        elif self.stem == 'deep':
            x = conv(filters // 2, 3, 2, name='stem_conv1')(x)
            x = self.act(norm(name='stem_bn1')(x))
            x = conv(filters // 2, 3, name='stem_conv2')(x)
            x = self.act(norm(name='stem_bn2')(x))
            x = conv(filters, 3, name='stem_conv3')(x)
        else:
            x = conv(filters, 7, 2, name='conv1')(x)
        x = self.act(norm(name='bn1')(x))
        return x if self.stem in ('cifar', 'whitening') else max_pool(x, 3, 2, padding=1)

    def _block(self, conv: ModuleDef, norm: ModuleDef, preactivation: bool, number: int, train: bool) -> ModuleDef:
        """Returns `block_cls` with all fields but filters and strides bound, for block `number`, counted from 1."""
        shortcut: Shortcut
        if self.shortcut == 'identity':
            shortcut = identity_shortcut
        elif self.shortcut == 'none':
            shortcut = no_shortcut
        else:
            shortcut_norm = None if preactivation or self.stem == 'd2l' else norm
            shortcut = functools.partial(projection_shortcut, norm=shortcut_norm, conv=conv, average=self.shortcut == 'average')
        branches: list[Activation] = []
        if self.squeeze_excite:
            branches.append(functools.partial(squeeze_excite, conv=conv))
        if self.stochastic_depth:
            rate = self.stochastic_depth * number / sum(self.stage_sizes)
            branches.append(functools.partial(drop_branch, rate=rate, train=train))
        options: dict[str, Callable[..., object]] = {}
        if branches:
            options['branch'] = lambda y: functools.reduce(lambda y, function: function(y), branches, y)
        if self.dropout:
            options['dropout'] = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
        return functools.partial(self.block_cls, conv=conv, norm=norm, act=self.act, shortcut=shortcut, **options)


# Not a method: Flax wraps methods, which cannot be called before `super().__post_init__()`.
def _check_combinations(model: ResNet) -> None:
    fields = block_fields(model.block_cls)
    if fields.get('preactivation') and model.stem != 'cifar':
        raise ConfigError(f"a pre-activation block needs stem='cifar', not {model.stem!r}")
    if model.dropout and 'dropout' not in fields:
        raise ConfigError('dropout is only in pre-activation blocks (wrn_*, preact_*, resnet164); use 0.0')
    if (model.squeeze_excite or model.stochastic_depth) and 'branch' not in fields:
        raise ConfigError("squeeze_excite and stochastic_depth need a block_cls with the field 'branch'")
    if model.stem == 'deep' and (model.stem_filters or model.num_filters) % 2:
        raise ConfigError("stem='deep' needs an even number of stem filters")
    if model.stochastic_depth and model.shortcut == 'none':
        raise ConfigError("stochastic_depth needs a shortcut to skip blocks by; shortcut must not be 'none'")
