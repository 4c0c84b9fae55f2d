"""The same networks in PyTorch: the benchmark's peers, and what the parity tests compare ours with.

They have the names and the structure of their sources, without regard to speed beyond that.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from resnet_jax.benchmark.torch_speedrun import SpeedrunNet
from resnet_jax.errors import ConfigError


class Pad(nn.Module):
    """Option A: every second pixel where the stride is 2, and zero channels half before, half after."""

    def __init__(self, extra, stride):
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Nothing(nn.Module):
    def forward(self, x):
        return 0


def shortcut(kind, in_planes, planes, stride):
    if kind == 'none':
        return Nothing()
    if stride == 1 and in_planes == planes:
        return nn.Sequential()
    if kind == 'identity':
        return Pad(planes - in_planes, stride)
    pool = ()
    if kind == 'average':  # timm's
        pool = (nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity(),)
        stride = 1
    return nn.Sequential(*pool, nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class SqueezeExcite(nn.Module):
    """timm's SEModule: the hidden width is a multiple of 8."""

    def __init__(self, planes):
        super().__init__()
        hidden = max(8, (planes // 16 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(planes, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, planes, 1)

    def forward(self, x):
        scale = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * scale.sigmoid()


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride, kind, se=False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SqueezeExcite(planes) if se else nn.Identity()
        self.downsample = shortcut(kind, in_planes, planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.se(self.bn2(self.conv2(y))) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes, planes, stride, kind, se=False, groups=1, base_width=64):
        super().__init__()
        width = planes * base_width // 64 * groups
        self.conv1 = nn.Conv2d(in_planes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.se = SqueezeExcite(4 * planes) if se else nn.Identity()
        self.downsample = shortcut(kind, in_planes, 4 * planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.se(self.bn3(self.conv3(y))) + self.downsample(x))


class ResNet(nn.Module):
    """torchvision's and timm's names; `stem` 'cifar', 'imagenet' or 'deep', `kind` of shortcut as ours.

    `options` go to the block: se, and of Bottleneck groups and base_width.
    """

    def __init__(self, block, stage_sizes, num_filters=64, stem='cifar', kind='projection', num_classes=10, **options):
        super().__init__()
        self.maxpool = nn.Identity() if stem == 'cifar' else nn.MaxPool2d(3, 2, padding=1)
        if stem == 'cifar':
            self.conv1 = nn.Conv2d(3, num_filters, 3, padding=1, bias=False)
        elif stem == 'imagenet':
            self.conv1 = nn.Conv2d(3, num_filters, 7, 2, padding=3, bias=False)
        else:
            half = num_filters // 2
            self.conv1 = nn.Sequential(
                *(nn.Conv2d(3, half, 3, 2, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
                *(nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
                nn.Conv2d(half, num_filters, 3, padding=1, bias=False),
            )
        self.bn1 = nn.BatchNorm2d(num_filters)
        in_planes, self.num_stages = num_filters, len(stage_sizes)
        for stage, size in enumerate(stage_sizes, start=1):
            blocks, planes = [], num_filters * 2 ** (stage - 1)
            for index in range(size):
                blocks.append(block(in_planes, planes, 2 if stage > 1 and index == 0 else 1, kind, **options))
                in_planes = planes * block.expansion
            self.add_module(f'layer{stage}', nn.Sequential(*blocks))
        self.fc = nn.Linear(in_planes, num_classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f'layer{stage}')(x)
        return self.fc(x.mean((2, 3)))


class PreActBlock(nn.Module):
    """Kuangliu's names."""

    expansion = 1

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        if stride > 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x):
        y = F.relu(self.bn1(x))
        skip = self.shortcut(y) if hasattr(self, 'shortcut') else x
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + skip


class PreActBottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        if stride > 1 or in_planes != 4 * planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, 4 * planes, 1, stride, bias=False))

    def forward(self, x):
        y = F.relu(self.bn1(x))
        skip = self.shortcut(y) if hasattr(self, 'shortcut') else x
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return self.conv3(F.relu(self.bn3(y))) + skip


class PreActResNet(nn.Module):
    """Kuangliu's PreActResNet; with `final_norm` He et al.'s (v2) and, with another `stem_filters`, a Wide ResNet."""

    def __init__(self, block, stage_sizes, num_filters=64, stem_filters=None, final_norm=False, num_classes=10):
        super().__init__()
        in_planes, self.num_stages = stem_filters or num_filters, len(stage_sizes)
        self.conv1 = nn.Conv2d(3, in_planes, 3, padding=1, bias=False)
        for stage, size in enumerate(stage_sizes, start=1):
            blocks, planes = [], num_filters * 2 ** (stage - 1)
            for index in range(size):
                blocks.append(block(in_planes, planes, 2 if stage > 1 and index == 0 else 1))
                in_planes = planes * block.expansion
            self.add_module(f'layer{stage}', nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(in_planes) if final_norm else None
        self.linear = nn.Linear(in_planes, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f'layer{stage}')(x)
        if self.bn is not None:
            x = F.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


class D2LResidual(nn.Module):
    """Dive into Deep Learning, section 8.6.2."""

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, 3, padding=1, stride=strides)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.conv3 = nn.Conv2d(in_channels, num_channels, 1, stride=strides) if use_1x1conv else nn.Identity()
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.bn2 = nn.BatchNorm2d(num_channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.conv3(x))


class ThreeConvResidual(D2LResidual):
    """D2L's block with a third convolution, which has the book's next free name."""

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__(in_channels, num_channels, use_1x1conv, strides)
        self.conv4 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(num_channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv4(y)) + self.conv3(x))


class D2LResNeXtBlock(nn.Module):
    """Dive into Deep Learning, section 8.6.5, with bot_mul = 1; `groups` is the width of one, as there."""

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1, groups=16):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, 1)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, stride=strides, padding=1, groups=num_channels // groups)
        self.conv3 = nn.Conv2d(num_channels, num_channels, 1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(num_channels) for _ in range(3))
        self.use_1x1conv = use_1x1conv
        if use_1x1conv:
            self.conv4 = nn.Conv2d(in_channels, num_channels, 1, stride=strides)
            self.bn4 = nn.BatchNorm2d(num_channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.bn4(self.conv4(x)) if self.use_1x1conv else x))


class D2LResNet(nn.Module):
    """Dive into Deep Learning, section 8.6.3, with its names; `arch` holds (blocks, channels) of each stage."""

    def __init__(self, arch=((2, 64), (2, 128), (2, 256), (2, 512)), num_classes=10, block=D2LResidual):
        super().__init__()
        channels = arch[0][1]
        stem = (
            nn.Conv2d(3, channels, 7, stride=2, padding=3),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.net = nn.Sequential(nn.Sequential(*stem))
        for stage, (size, wider) in enumerate(arch):
            first = block(channels, wider, use_1x1conv=True, strides=2) if stage else block(wider, wider)
            blocks = [first, *(block(wider, wider) for _ in range(size - 1))]
            self.net.add_module(f'b{stage + 2}', nn.Sequential(*blocks))
            channels = wider
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        self.net.add_module('last', nn.Sequential(*head))

    def forward(self, x):
        return self.net(x)


class AlexNet(nn.Module):
    """AlexNet for 32x32 images, in the layout of github.com/icpm/pytorch-cifar10, models/AlexNet.py."""

    def __init__(self, num_classes=10):
        super().__init__()

        def conv(inputs, outputs, stride=1):
            return nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU()

        self.features = nn.Sequential(
            *(*conv(3, 64, 2), nn.MaxPool2d(2)),
            *(*conv(64, 192), nn.MaxPool2d(2)),
            *(*conv(192, 384), *conv(384, 256), *conv(256, 256), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 2 * 2, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class ImageNetAlexNet(nn.Module):
    """torchvision's alexnet."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class LeNet(nn.Module):
    """Kuangliu's: ReLU, max pools, three channels of 32x32."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class D2LLeNet(nn.Module):
    """Dive into Deep Learning, section 7.6: sigmoids, average pools, one channel of 28x28."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.Sigmoid()),
            *(nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, num_classes)),
        )

    def forward(self, x):
        return self.net(x)


_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(layers, **kwargs):
    return functools.partial(ResNet, BasicBlock if layers < 50 else Bottleneck, stage_sizes=_STAGES[layers], **kwargs)


def _imagenet_resnet(layers, **kwargs):
    return _resnet(layers, **{'stem': 'imagenet', 'num_classes': 1000, **kwargs})


def _cifar_resnet(layers, kind='identity'):
    return functools.partial(ResNet, BasicBlock, stage_sizes=((layers - 2) // 6,) * 3, num_filters=16, kind=kind)


def _preact(block, stage_sizes, **kwargs):
    return functools.partial(PreActResNet, block, stage_sizes=stage_sizes, **kwargs)


def _wide_resnet(layers, width):
    sizes = ((layers - 4) // 6,) * 3
    return _preact(PreActBlock, sizes, num_filters=16 * width, stem_filters=16, final_norm=True)


# By our names; all of them but for resnet1202.
NETWORKS: dict[str, Any] = {
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

# Arguments that have a counterpart, by class.
_KWARGS: dict[Any, tuple[str, ...]] = {
    ResNet: ('stage_sizes', 'num_filters'),
    PreActResNet: ('stage_sizes', 'num_filters'),
    SpeedrunNet: ('widths', 'depth', 'logit_scale', 'batch_norm_momentum'),
}


def create_torch_model(name: str, num_classes: int, model_kwargs: Mapping[str, Any]) -> nn.Module:
    """Returns the network that `resnet_jax.models.create_model` makes of the same arguments, with PyTorch's initialisation.

    Raises:
      ConfigError: there is none; `lenet5` (sigmoids and padding differ) and most arguments of models have no counterpart here.
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
