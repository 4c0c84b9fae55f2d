"""Models by name: `create_model(name, num_classes, **kwargs)`.

  name               | layers | params      | multiply-adds | source
  lenet5             |      5 |      62,006 |        0.65 M | LeCun et al., 1998, as Dive into Deep Learning, 7.6
  lenet5_relu        |      5 |      62,006 |        0.65 M | kuangliu/pytorch-cifar
  alexnet            |      8 |  23,272,266 |       62.74 M | Krizhevsky et al., 2012, for 32x32; see alexnet.py
  alexnet_imagenet   |      8 |  61,100,840 |      714.19 M | torchvision
  plain20            |     20 |     269,722 |       40.55 M | He et al., section 4.2: no shortcuts
  plain56            |     56 |     853,018 |      125.49 M | the same
  resnet8            |      8 |      75,290 |       12.24 M | He et al., section 4.2, n = 1: the quickstart's
  resnet20           |     20 |     269,722 |       40.55 M | He et al., section 4.2 and table 6: 0.27 M
  resnet32           |     32 |     464,154 |       68.86 M | the same: 0.46 M
  resnet44           |     44 |     658,586 |       97.17 M | the same: 0.66 M
  resnet56           |     56 |     853,018 |      125.49 M | the same: 0.85 M
  resnet110          |    110 |   1,727,962 |      252.89 M | the same: 1.7 M
  resnet1202         |   1202 |  19,421,274 |        2.83 G | the same: 19.4 M
  resnet18           |     18 |  11,173,962 |      555.42 M | He et al., table 1, as kuangliu/pytorch-cifar
  resnet34           |     34 |  21,282,122 |        1.16 G | the same
  resnet50           |     50 |  23,520,842 |        1.30 G | the same
  resnet101          |    101 |  42,512,970 |        2.51 G | the same
  resnet152          |    152 |  58,156,618 |        3.72 G | the same
  resnet18d          |     18 |  11,708,744 |        2.05 G | ResNet-D, arXiv:1812.01187, as timm
  resnet34d          |     34 |  21,816,904 |        3.90 G | the same
  resnet50d          |     50 |  25,576,264 |        4.33 G | the same
  resnet101d         |    101 |  44,568,392 |        8.04 G | the same
  resnet152d         |    152 |  60,212,040 |       11.75 G | the same
  seresnet18         |     18 |  11,779,624 |        1.81 G | arXiv:1709.01507, as timm
  seresnet34         |     34 |  21,960,416 |        3.66 G | the same
  seresnet50         |     50 |  28,088,024 |        4.09 G | the same
  seresnet101        |    101 |  49,326,872 |        7.81 G | the same
  seresnet152        |    152 |  66,821,848 |       11.52 G | the same
  preact_resnet18    |     18 |  11,171,146 |      555.42 M | v2, arXiv:1603.05027, as kuangliu/pytorch-cifar
  preact_resnet34    |     34 |  21,279,306 |        1.16 G | the same
  preact_resnet50    |     50 |  23,509,066 |        1.30 G | the same
  resnet164          |    164 |   1,703,258 |      247.65 M | v2, arXiv:1603.05027: 1.7 M
  resnet1001         |   1001 |  10,327,706 |        1.49 G | the same: 10.2 M; osmr/imgclsmob: 10,327,706
  wrn_16_4           |     16 |   2,748,890 |      392.61 M | arXiv:1605.07146
  wrn_16_8           |     16 |  10,961,370 |        1.55 G | the same: 11.0 M
  wrn_28_10          |     28 |  36,479,194 |        5.24 G | the same: 36.5 M
  wrn_40_4           |     40 |   8,949,210 |        1.30 G | the same: 8.9 M
  wide_resnet50_2    |     50 |  68,883,240 |       11.40 G | torchvision
  wide_resnet101_2   |    101 | 126,886,696 |       22.75 G | torchvision
  resnext29_4x64d    |     29 |  17,562,442 |        2.74 G | arXiv:1611.05431
  resnext29_8x64d    |     29 |  34,426,698 |        5.39 G | the same: 34.4 M
  resnext50_32x4d    |     50 |  25,028,904 |        4.23 G | torchvision
  resnext101_32x8d   |    101 |  88,791,336 |       16.41 G | torchvision
  d2l_resnet18       |     18 |  11,184,650 |       37.02 M | Dive into Deep Learning, section 8.6
  d2l_resnet18_3conv |     26 |  17,457,290 |       55.89 M | the same, a third convolution in the block
  d2l_resnext26      |     26 |   1,703,818 |       10.00 M | the same with its ResNeXtBlock(groups=16, bot_mul=1)
  speedrun94         |      8 |   1,971,640 |      105.36 M | KellerJordan/cifar10-airbench, airbench94_muon.py
  speedrun96         |     11 |   9,915,704 |      414.45 M | the same, airbench96_faster.py

He et al. is arXiv:1512.03385. M means millions, G billions; numbers in the last column are quoted from the source.
Multiply-adds count convolutions and linear layers for one image. Both counts are for 10 classes and 32x32x3 images. If the
source is torchvision or timm, they are for 1000 classes and 224x224 images, because these networks have an ImageNet stem like
their source (`stem='cifar'` adapts them to small images). For resnet18 to resnet152 `stem='imagenet'` gives torchvision's form,
with 11,689,512, 21,797,672, 25,557,032, 44,549,160 and 60,192,808 parameters. resnet8 to resnet1202 have shortcut option A
('identity'); the others have option B ('projection') or the shortcut of their source. The resnext29 networks are the paper's;
kuangliu's networks with these names have wider blocks. `resnet-jax models NAME` prints every layer.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.models.activations import ACTIVATIONS, relu
from resnet_jax.models.alexnet import AlexNet
from resnet_jax.models.blocks import (
    BasicBlock,
    BottleneckBlock,
    D2LResNeXtBlock,
    PreActBlock,
    PreActBottleneckBlock,
    ThreeConvBlock,
)
from resnet_jax.models.introspection import features
from resnet_jax.models.lenet import LeNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.speedrun import SpeedrunNet

__all__ = [
    'AlexNet',
    'BasicBlock',
    'BottleneckBlock',
    'D2LResNeXtBlock',
    'LeNet',
    'PreActBlock',
    'PreActBottleneckBlock',
    'ResNet',
    'SpeedrunNet',
    'ThreeConvBlock',
    'available_models',
    'create_model',
    'features',
    'register_model',
]

# Blocks in each stage, by the number of layers.
_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class _Partial(functools.partial[nn.Module]):
    """A partial that equals another one with the same function and arguments, so that pickled models stay equal."""

    def _key(self) -> tuple[object, ...]:
        return self.func, self.args, tuple(sorted(self.keywords.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Partial) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _resnet(layers: int, **kwargs: Any) -> functools.partial[ResNet]:
    """Returns a network with the 18 to 152 layers of He et al., table 1."""
    block_cls = BasicBlock if layers < 50 else BottleneckBlock
    return functools.partial(ResNet, **{'stage_sizes': _STAGES[layers], 'block_cls': block_cls, **kwargs})


def _grouped_resnet(layers: int, groups: int, base_width: int, **kwargs: Any) -> functools.partial[ResNet]:
    return _resnet(layers, block_cls=_Partial(BottleneckBlock, groups=groups, base_width=base_width), **kwargs)


def _cifar_resnet(layers: int, shortcut: str = 'identity') -> functools.partial[ResNet]:
    """Returns a network with the 6 n + 2 layers of He et al., section 4.2."""
    return functools.partial(ResNet, stage_sizes=((layers - 2) // 6,) * 3, num_filters=16, shortcut=shortcut)


def _preact_cifar_resnet(layers: int) -> functools.partial[ResNet]:
    """Returns a network with the 9 n + 2 layers of He et al., arXiv:1603.05027."""
    sizes = ((layers - 2) // 9,) * 3
    return functools.partial(ResNet, stage_sizes=sizes, block_cls=PreActBottleneckBlock, num_filters=16)


def _wide_resnet(layers: int, width: int) -> functools.partial[ResNet]:
    """Returns a network with the 6 n + 4 layers of Zagoruyko and Komodakis, table 1."""
    sizes = ((layers - 4) // 6,) * 3
    return functools.partial(ResNet, stage_sizes=sizes, block_cls=PreActBlock, num_filters=16 * width, stem_filters=16)


def _cifar_resnext(groups: int, base_width: int) -> functools.partial[ResNet]:
    """Returns a network with the 29 layers of Xie et al., arXiv:1611.05431, for CIFAR."""
    block_cls = _Partial(BottleneckBlock, groups=groups, base_width=base_width)
    return functools.partial(ResNet, stage_sizes=(3, 3, 3), block_cls=block_cls)


_MODELS: dict[str, functools.partial[Any]] = {
    'lenet5': functools.partial(LeNet),
    'lenet5_relu': functools.partial(LeNet, act=relu, pool='max'),
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
    'speedrun94': functools.partial(SpeedrunNet),
    # The source initialises its head like PyTorch's Linear, with variance 1 / (3 * 512), and divides the logits by 9.
    'speedrun96': functools.partial(
        SpeedrunNet, widths=(128, 384, 512), depth=3, logit_scale=(3 * 512) ** -0.5 / 9, batch_norm_momentum=0.9
    ),
}


_BLOCKS = {
    block.__name__: block
    for block in (BasicBlock, BottleneckBlock, D2LResNeXtBlock, PreActBlock, PreActBottleneckBlock, ThreeConvBlock)
}


def available_models() -> tuple[str, ...]:
    """Returns the names that `create_model` takes."""
    return tuple(_MODELS)


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Registers a network under a name that every function and command then takes.

    Args:
      name: its name in configs; must be new.
      factory: usually a module class. `factory(num_classes=..., dtype=..., **model_kwargs)` must return a module whose
        `__call__(images, *, train)` takes normalised images `[batch, height, width, channels]` and returns float32 logits
        `[batch, num_classes]`. Cross-device BatchNorm needs a module with an attribute `axis_name`.

    Raises:
      ConfigError: the name is taken, or the factory cannot be called in this way.
    """
    if name in _MODELS:
        raise ConfigError(f'model {name!r} exists already: expected a new name')
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ConfigError(f'the factory of model {name!r} is {factory!r}; expected a class of modules or a function')
    model = factory if isinstance(factory, functools.partial) else functools.partial(factory)
    allowed = _arguments(model.func)
    if missing := [keyword for keyword in ('num_classes', 'dtype') if allowed is not None and keyword not in allowed]:
        raise ConfigError(f'the factory of model {name!r} has no argument {missing[0]!r}; expected num_classes and dtype')
    _MODELS[name] = model


def create_model(name: str, num_classes: int = 10, **kwargs: object) -> nn.Module:
    """Returns the module called `name`; the docstring of `resnet_jax.models` has a table of all models.

    Args:
      name: one of `available_models()`.
      num_classes: number of logits.
      **kwargs: override any other attribute of the module's class, `ResNet`, `SpeedrunNet`, `AlexNet` or `LeNet`, as in
        `create_model('resnet20', stage_sizes=(5, 5), num_filters=32)`. Functions and classes, which a config file cannot
        contain, may be given by name: act='relu', 'sigmoid', 'tanh', 'gelu' or 'silu'; block_cls='BasicBlock', 'PreActBlock' or
        another class of blocks.py.

    Raises:
      ConfigError: the name or a keyword is unknown, or a value is out of range.
    """
    if name not in available_models():
        raise ConfigError(
            f'unknown model {name!r}{did_you_mean(str(name), _MODELS)}; available: {", ".join(available_models())}'
        )
    model = _MODELS[name]
    allowed = _arguments(model.func)
    for keyword in kwargs:
        if allowed is not None and keyword not in allowed:
            raise ConfigError(
                f'{name} has no argument {keyword!r}{did_you_mean(keyword, allowed)}; it has: {", ".join(allowed)}'
            )
    for keyword, names in (('act', ACTIVATIONS), ('block_cls', _BLOCKS)):
        value = kwargs.get(keyword)
        if isinstance(value, str):
            if value not in names:
                raise ConfigError(f'{keyword} is {value!r}{did_you_mean(value, names)}; expected one of {", ".join(names)}')
            kwargs[keyword] = names[value]
    network: nn.Module = model(num_classes=num_classes, **kwargs)
    return network


def _arguments(factory: Callable[..., nn.Module]) -> list[str] | None:
    """Returns the keywords of a module class or function, except those that Flax adds; None if it takes any keyword."""
    if dataclasses.is_dataclass(factory):
        names = [field.name for field in dataclasses.fields(factory)]
    else:
        parameters = inspect.signature(factory).parameters.values()
        if any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return None
        names = [parameter.name for parameter in parameters]
    return [name for name in names if name not in ('name', 'parent')]
