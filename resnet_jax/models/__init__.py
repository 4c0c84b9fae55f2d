"""Models by name: `create_model(name, num_classes, **kwargs)`.

  name         | layers | params     | source (He et al. is arXiv:1512.03385; M: millions, as printed there)
  resnet8      |      8 |     75,290 | He et al., section 4.2 with n = 1: the quickstart's network
  resnet20     |     20 |    269,722 | He et al., section 4.2 and table 6: 0.27 M
  resnet32     |     32 |    464,154 | the same: 0.46 M
  resnet44     |     44 |    658,586 | the same: 0.66 M
  resnet56     |     56 |    853,018 | the same: 0.85 M
  resnet110    |    110 |  1,727,962 | the same: 1.7 M
  resnet1202   |   1202 | 19,421,274 | the same: 19.4 M
  resnet18     |     18 | 11,173,962 | He et al., table 1; for 32x32 as github.com/kuangliu/pytorch-cifar
  resnet34     |     34 | 21,282,122 | the same
  resnet50     |     50 | 23,520,842 | the same
  resnet101    |    101 | 42,512,970 | the same
  resnet152    |    152 | 58,156,618 | the same
  d2l_resnet18 |     18 | 11,184,650 | Dive into Deep Learning, section 8.6
  alexnet      |      8 | 23,272,266 | Krizhevsky et al., 2012, for 32x32; see alexnet.py

Parameters are for 10 classes and 32x32x3 images. resnet8 to resnet1202 have shortcut option A ('identity'), the others
option B ('projection'). All but d2l_resnet18 and alexnet have the stem for small images; `stem='imagenet'` gives
torchvision's form, which with 1000 classes has 11,689,512 (resnet18), 21,797,672 (resnet34), 25,557,032 (resnet50),
44,549,160 (resnet101) and 60,192,808 (resnet152) parameters.
"""

import dataclasses
import functools
from typing import Any, cast

import flax.linen as nn

from resnet_jax.errors import ConfigError
from resnet_jax.models.alexnet import AlexNet
from resnet_jax.models.blocks import (
    BasicBlock,
    BottleneckBlock,
    D2LResNeXtBlock,
    PreActBlock,
    PreActBottleneckBlock,
    ThreeConvBlock,
)
from resnet_jax.models.checks import did_you_mean
from resnet_jax.models.introspection import features
from resnet_jax.models.lenet import LeNet
from resnet_jax.models.resnet import ResNet

__all__ = [
    'AlexNet',
    'BasicBlock',
    'BottleneckBlock',
    'D2LResNeXtBlock',
    'LeNet',
    'PreActBlock',
    'PreActBottleneckBlock',
    'ResNet',
    'ThreeConvBlock',
    'available_models',
    'create_model',
    'features',
]

# Blocks in each stage, by the number of layers.
_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(layers: int, **kwargs: Any) -> functools.partial[Any]:
    """The 18 to 152 layers of He et al., table 1."""
    block_cls = BasicBlock if layers < 50 else BottleneckBlock
    return functools.partial(ResNet, **{'stage_sizes': _STAGES[layers], 'block_cls': block_cls, **kwargs})


def _grouped_resnet(layers: int, groups: int, base_width: int, **kwargs: Any) -> functools.partial[Any]:
    return _resnet(layers, block_cls=functools.partial(BottleneckBlock, groups=groups, base_width=base_width), **kwargs)


def _cifar_resnet(layers: int, shortcut: str = 'identity') -> functools.partial[Any]:
    """The 6 n + 2 layers of He et al., section 4.2."""
    return functools.partial(ResNet, stage_sizes=((layers - 2) // 6,) * 3, num_filters=16, shortcut=shortcut)


def _preact_cifar_resnet(layers: int) -> functools.partial[Any]:
    """The 9 n + 2 layers of He et al., arXiv:1603.05027."""
    sizes = ((layers - 2) // 9,) * 3
    return functools.partial(ResNet, stage_sizes=sizes, block_cls=PreActBottleneckBlock, num_filters=16)


def _wide_resnet(layers: int, width: int) -> functools.partial[Any]:
    """The 6 n + 4 layers of Zagoruyko and Komodakis, table 1."""
    sizes = ((layers - 4) // 6,) * 3
    return functools.partial(ResNet, stage_sizes=sizes, block_cls=PreActBlock, num_filters=16 * width, stem_filters=16)


def _cifar_resnext(groups: int, base_width: int) -> functools.partial[Any]:
    """The 29 layers of Xie et al., section 4.4."""
    block_cls = functools.partial(BottleneckBlock, groups=groups, base_width=base_width)
    return functools.partial(ResNet, stage_sizes=(3, 3, 3), block_cls=block_cls)


_MODELS: dict[str, functools.partial[Any]] = {
    'lenet5': functools.partial(LeNet),
    'lenet5_relu': functools.partial(LeNet, act=nn.relu, pool='max'),
    'alexnet': functools.partial(AlexNet),
    'alexnet_imagenet': functools.partial(AlexNet, stem='imagenet'),
    'plain20': _cifar_resnet(20, 'none'),
    'plain56': _cifar_resnet(56, 'none'),
    **{f'resnet{n}': _cifar_resnet(n) for n in (8, 20, 32, 44, 56, 110, 1202)},
    **{f'resnet{n}': _resnet(n) for n in _STAGES},
    **{f'resnet{n}d': _resnet(n, stem='deep', shortcut='average') for n in _STAGES},
    **{f'seresnet{n}': _resnet(n, stem='imagenet', squeeze_excite=True) for n in _STAGES},
    'preact_resnet18': _resnet(18, block_cls=PreActBlock, final_norm=False),
    'preact_resnet34': _resnet(34, block_cls=PreActBlock, final_norm=False),
    'preact_resnet50': _resnet(50, block_cls=PreActBottleneckBlock, final_norm=False),
    'resnet164': _preact_cifar_resnet(164),
    'resnet1001': _preact_cifar_resnet(1001),
    'wrn_16_4': _wide_resnet(16, 4),
    'wrn_16_8': _wide_resnet(16, 8),
    'wrn_28_10': _wide_resnet(28, 10),
    'wrn_40_4': _wide_resnet(40, 4),
    'wide_resnet50_2': _grouped_resnet(50, 1, 128, stem='imagenet'),
    'wide_resnet101_2': _grouped_resnet(101, 1, 128, stem='imagenet'),
    'resnext29_4x64d': _cifar_resnext(4, 64),
    'resnext29_8x64d': _cifar_resnext(8, 64),
    'resnext50_32x4d': _grouped_resnet(50, 32, 4, stem='imagenet'),
    'resnext101_32x8d': _grouped_resnet(101, 32, 8, stem='imagenet'),
    'd2l_resnet18': _resnet(18, stem='d2l'),
    'd2l_resnet18_3conv': _resnet(18, stem='d2l', block_cls=ThreeConvBlock),
    'd2l_resnext26': _resnet(18, stem='d2l', block_cls=D2LResNeXtBlock),
}


def available_models() -> tuple[str, ...]:
    """The names that `create_model` knows."""
    return tuple(_MODELS)


def create_model(name: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Returns the module `name`; see the table above.

    Args:
      name: one of `available_models()`.
      num_classes: number of logits.
      **kwargs: any other attribute of the module's class, `ResNet`, `AlexNet` or `LeNet`, in place of the table's value:
        `create_model('resnet20', stage_sizes=(5, 5), num_filters=32)`.

    Raises:
      ConfigError: the name or a keyword is unknown, or a value is out of range.
    """
    if name not in available_models():
        raise ConfigError(
            f'unknown model {name!r}{did_you_mean(str(name), _MODELS)}; available: {", ".join(available_models())}'
        )
    model = _MODELS[name]
    allowed = [field.name for field in dataclasses.fields(cast(Any, model.func)) if field.name not in ('name', 'parent')]
    for keyword in kwargs:
        if keyword not in allowed:
            raise ConfigError(
                f'{name} has no argument {keyword!r}{did_you_mean(keyword, allowed)}; it has: {", ".join(allowed)}'
            )
    return model(num_classes=num_classes, **kwargs)
