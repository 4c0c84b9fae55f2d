"""Residual networks in PyTorch, post- and pre-activation, with the names and structure of their sources."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Pad(nn.Module):
    """Shortcut option A: every second pixel if the stride is 2, and zero channels, half before and half after."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 0


def shortcut(kind: str, in_planes: int, planes: int, stride: int) -> nn.Module:
    if kind == 'none':
        return Nothing()
    if stride == 1 and in_planes == planes:
        return nn.Sequential()
    if kind == 'identity':
        return Pad(planes - in_planes, stride)
    pool: tuple[nn.Module, ...] = ()
    if kind == 'average':  # timm's
        pool = (nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity(),)
        stride = 1
    return nn.Sequential(*pool, nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class SqueezeExcite(nn.Module):
    """timm's SEModule: the hidden width is a multiple of 8."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        hidden = max(8, (planes // 16 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(planes, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * scale.sigmoid()


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, kind: str, se: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SqueezeExcite(planes) if se else nn.Identity()
        self.downsample = shortcut(kind, in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.se(self.bn2(self.conv2(y))) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(
        self, in_planes: int, planes: int, stride: int, kind: str, se: bool = False, groups: int = 1, base_width: int = 64
    ) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.se(self.bn3(self.conv3(y))) + self.downsample(x))


class ResNet(nn.Module):
    """A ResNet with torchvision's and timm's names.

    Args:
      stem: 'cifar', 'imagenet' or 'deep'.
      kind: shortcut, as in our ResNet.
      **options: passed to the block: se, and for Bottleneck groups and base_width.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        stage_sizes: Sequence[int],
        num_filters: int = 64,
        stem: str = 'cifar',
        kind: str = 'projection',
        num_classes: int = 10,
        **options: Any,
    ) -> None:
        super().__init__()
        self.maxpool = nn.Identity() if stem == 'cifar' else nn.MaxPool2d(3, 2, padding=1)
        if stem == 'cifar':
            self.conv1: nn.Module = nn.Conv2d(3, num_filters, 3, padding=1, bias=False)
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

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f'layer{stage}')(x)
        return self.fc(x.mean((2, 3)))


class PreActBlock(nn.Module):
    """A pre-activation block with Kuangliu's names."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        if stride > 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        skip = self.shortcut(y) if hasattr(self, 'shortcut') else x
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + skip


class PreActBottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        if stride > 1 or in_planes != 4 * planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, 4 * planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        skip = self.shortcut(y) if hasattr(self, 'shortcut') else x
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return self.conv3(F.relu(self.bn3(y))) + skip


class PreActResNet(nn.Module):
    """Kuangliu's PreActResNet; with `final_norm`, that of He et al. (v2); also with `stem_filters`, a Wide ResNet."""

    def __init__(
        self,
        block: type[PreActBlock | PreActBottleneck],
        stage_sizes: Sequence[int],
        num_filters: int = 64,
        stem_filters: int | None = None,
        final_norm: bool = False,
        num_classes: int = 10,
    ) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f'layer{stage}')(x)
        if self.bn is not None:
            x = F.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))
