"""AlexNet, LeNet and the networks of Dive into Deep Learning in PyTorch, with the names and structure of their sources."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class D2LResidual(nn.Module):
    """Dive into Deep Learning, section 8.6.2."""

    def __init__(self, in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, 3, padding=1, stride=strides)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.conv3 = nn.Conv2d(in_channels, num_channels, 1, stride=strides) if use_1x1conv else nn.Identity()
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.bn2 = nn.BatchNorm2d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.conv3(x))


class ThreeConvResidual(D2LResidual):
    """D2L's block with a third convolution, named conv4 because the book uses conv3 for the shortcut."""

    def __init__(self, in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__(in_channels, num_channels, use_1x1conv, strides)
        self.conv4 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv4(y)) + self.conv3(x))


class D2LResNeXtBlock(nn.Module):
    """Dive into Deep Learning, section 8.6.5, with bot_mul = 1; `groups` is the width of a group, as in the book."""

    def __init__(
        self, in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1, groups: int = 16
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, 1)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, stride=strides, padding=1, groups=num_channels // groups)
        self.conv3 = nn.Conv2d(num_channels, num_channels, 1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(num_channels) for _ in range(3))
        self.use_1x1conv = use_1x1conv
        if use_1x1conv:
            self.conv4 = nn.Conv2d(in_channels, num_channels, 1, stride=strides)
            self.bn4 = nn.BatchNorm2d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.bn4(self.conv4(x)) if self.use_1x1conv else x))


class D2LResNet(nn.Module):
    """Dive into Deep Learning, section 8.6.3, with its names; `arch` has (blocks, channels) of each stage."""

    def __init__(
        self,
        arch: Sequence[tuple[int, int]] = ((2, 64), (2, 128), (2, 256), (2, 512)),
        num_classes: int = 10,
        block: Callable[..., nn.Module] = D2LResidual,
    ) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class AlexNet(nn.Module):
    """AlexNet for 32x32 images, in the layout of github.com/icpm/pytorch-cifar10, models/AlexNet.py."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
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

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class ImageNetAlexNet(nn.Module):
    """torchvision's alexnet."""

    def __init__(self, num_classes: int = 1000) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class LeNet(nn.Module):
    """Kuangliu's LeNet: ReLU, max pools, 32x32 images with three channels."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))
