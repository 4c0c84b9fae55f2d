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
from resnet_jax.models.checks import did_you_mean
from resnet_jax.models.resnet import BasicBlock, BottleneckBlock, ResNet

__all__ = ['AlexNet', 'BasicBlock', 'BottleneckBlock', 'ResNet', 'available_models', 'create_model']

_small_resnet = functools.partial(ResNet, num_filters=16, shortcut='identity')
_bottleneck_resnet = functools.partial(ResNet, block_cls=BottleneckBlock)

_MODELS: dict[str, functools.partial[Any]] = {
    'resnet8': functools.partial(_small_resnet, stage_sizes=(1, 1, 1)),
    'resnet20': functools.partial(_small_resnet, stage_sizes=(3, 3, 3)),
    'resnet32': functools.partial(_small_resnet, stage_sizes=(5, 5, 5)),
    'resnet44': functools.partial(_small_resnet, stage_sizes=(7, 7, 7)),
    'resnet56': functools.partial(_small_resnet, stage_sizes=(9, 9, 9)),
    'resnet110': functools.partial(_small_resnet, stage_sizes=(18, 18, 18)),
    'resnet1202': functools.partial(_small_resnet, stage_sizes=(200, 200, 200)),
    'resnet18': functools.partial(ResNet, stage_sizes=(2, 2, 2, 2)),
    'resnet34': functools.partial(ResNet, stage_sizes=(3, 4, 6, 3)),
    'resnet50': functools.partial(_bottleneck_resnet, stage_sizes=(3, 4, 6, 3)),
    'resnet101': functools.partial(_bottleneck_resnet, stage_sizes=(3, 4, 23, 3)),
    'resnet152': functools.partial(_bottleneck_resnet, stage_sizes=(3, 8, 36, 3)),
    'd2l_resnet18': functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), stem='d2l'),
    'alexnet': functools.partial(AlexNet),
}


def available_models() -> tuple[str, ...]:
    """The names that `create_model` knows."""
    return tuple(_MODELS)


def create_model(name: str, num_classes: int = 10, **kwargs: Any) -> nn.Module:
    """Returns the module `name`; see the table above.

    Args:
      name: one of `available_models()`.
      num_classes: number of logits.
      **kwargs: any other attribute of the module's class, `ResNet` or `AlexNet`, in place of the table's value:
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
