"""Our networks in PyTorch, for the benchmark and the parity tests.

The networks have the names and structure of their sources and are not optimised further.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from resnet_jax.benchmark.torch_classics import AlexNet, D2LResNet, D2LResNeXtBlock, ImageNetAlexNet, LeNet, ThreeConvResidual
from resnet_jax.benchmark.torch_resnets import BasicBlock, Bottleneck, PreActBlock, PreActBottleneck, PreActResNet, ResNet
from resnet_jax.benchmark.torch_speedrun import SpeedrunNet
from resnet_jax.errors import ConfigError
from resnet_jax.typing import Json

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(layers: int, **kwargs: Any) -> functools.partial[ResNet]:
    return functools.partial(ResNet, BasicBlock if layers < 50 else Bottleneck, stage_sizes=_STAGES[layers], **kwargs)


def _imagenet_resnet(layers: int, **kwargs: Any) -> functools.partial[ResNet]:
    return _resnet(layers, **{'stem': 'imagenet', 'num_classes': 1000, **kwargs})


def _cifar_resnet(layers: int, kind: str = 'identity') -> functools.partial[ResNet]:
    return functools.partial(ResNet, BasicBlock, stage_sizes=((layers - 2) // 6,) * 3, num_filters=16, kind=kind)


def _preact(
    block: type[PreActBlock | PreActBottleneck], stage_sizes: Sequence[int], **kwargs: Any
) -> functools.partial[PreActResNet]:
    return functools.partial(PreActResNet, block, stage_sizes=stage_sizes, **kwargs)


def _wide_resnet(layers: int, width: int) -> functools.partial[PreActResNet]:
    sizes = ((layers - 4) // 6,) * 3
    return _preact(PreActBlock, sizes, num_filters=16 * width, stem_filters=16, final_norm=True)


# Networks by our names; all but resnet1202.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    'lenet5': LeNet,
    'lenet5_relu': LeNet,
    'alexnet': AlexNet,
    'alexnet_imagenet': ImageNetAlexNet,
    'plain20': _cifar_resnet(20, 'none'),
    'plain56': _cifar_resnet(56, 'none'),
    **{f'resnet{n}': _cifar_resnet(n) for n in (8, 20, 32, 44, 56, 110)},
    **{f'resnet{n}': _resnet(n) for n in _STAGES},
    **{f'resnet{n}d': _imagenet_resnet(n, stem='deep', kind='average') for n in _STAGES},
    **{f'seresnet{n}': _imagenet_resnet(n, se=True) for n in _STAGES},
    **{f'preact_resnet{n}': _preact(PreActBlock, _STAGES[n]) for n in (18, 34)},
    'preact_resnet50': _preact(PreActBottleneck, _STAGES[50]),
    'resnet164': _preact(PreActBottleneck, (18, 18, 18), num_filters=16, final_norm=True),
    'resnet1001': _preact(PreActBottleneck, (111, 111, 111), num_filters=16, final_norm=True),
    'wrn_16_4': _wide_resnet(16, 4),
    'wrn_16_8': _wide_resnet(16, 8),
    'wrn_28_10': _wide_resnet(28, 10),
    'wrn_40_4': _wide_resnet(40, 4),
    'wide_resnet50_2': _imagenet_resnet(50, base_width=128),
    'wide_resnet101_2': _imagenet_resnet(101, base_width=128),
    'resnext29_4x64d': functools.partial(ResNet, Bottleneck, stage_sizes=(3, 3, 3), groups=4),
    'resnext29_8x64d': functools.partial(ResNet, Bottleneck, stage_sizes=(3, 3, 3), groups=8),
    'resnext50_32x4d': _imagenet_resnet(50, groups=32, base_width=4),
    'resnext101_32x8d': _imagenet_resnet(101, groups=32, base_width=8),
    'd2l_resnet18': D2LResNet,
    'd2l_resnet18_3conv': functools.partial(D2LResNet, block=ThreeConvResidual),
    'd2l_resnext26': functools.partial(D2LResNet, block=D2LResNeXtBlock),
    'speedrun94': SpeedrunNet,
    'speedrun96': functools.partial(
        SpeedrunNet, widths=(128, 384, 512), depth=3, logit_scale=(3 * 512) ** -0.5 / 9, batch_norm_momentum=0.9
    ),
}

# Arguments with a counterpart in PyTorch, by class.
_KWARGS: dict[object, tuple[str, ...]] = {
    ResNet: ('stage_sizes', 'num_filters'),
    PreActResNet: ('stage_sizes', 'num_filters'),
    SpeedrunNet: ('widths', 'depth', 'logit_scale', 'batch_norm_momentum'),
}


def create_torch_model(name: str, num_classes: int, model_kwargs: Json) -> nn.Module:
    """Returns the PyTorch counterpart of `resnet_jax.models.create_model`, initialised by PyTorch.

    Raises:
      ConfigError: there is no counterpart, as for `lenet5` (sigmoids and padding differ) and most model arguments.
    """
    make = NETWORKS.get(name)
    if make is None or name == 'lenet5':
        known = ', '.join(known for known in NETWORKS if known != 'lenet5')
        raise ConfigError(f'no PyTorch network to compare {name!r} with; expected one of {known}')
    known_kwargs = _KWARGS.get(getattr(make, 'func', make), ())
    for keyword in model_kwargs:
        if keyword not in known_kwargs:
            expected = ' or '.join(known_kwargs) or 'none'
            raise ConfigError(f'the PyTorch network of {name} has no argument {keyword!r}; expected {expected} in model_kwargs')
    return make(num_classes=num_classes, **model_kwargs)
