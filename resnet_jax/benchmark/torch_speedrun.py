"""The networks of models/speedrun.py in PyTorch, with our names."""

from collections.abc import Sequence

import torch
from torch import nn


class _BatchNorm(nn.BatchNorm2d):
    """BatchNorm without a scale."""

    def __init__(self, num_features: int, keep: float):
        super().__init__(num_features, eps=1e-12, momentum=1 - keep)
        self.register_parameter('weight', None)


class _Group(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int, keep: float):
        super().__init__()
        self.depth = depth
        for number in range(1, depth + 1):
            conv = nn.Conv2d(inputs if number == 1 else outputs, outputs, 3, padding=1, bias=False)
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
            self.add_module(f'conv{number}', conv)
            self.add_module(f'bn{number}', _BatchNorm(outputs, keep))
        self.pool, self.act = nn.MaxPool2d(2), nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.get_submodule
        x = self.act(layer('bn1')(self.pool(layer('conv1')(x))))
        y = self.act(layer('bn2')(layer('conv2')(x)))
        return y if self.depth == 2 else self.act(layer('bn3')(layer('conv3')(y)) + x)


class SpeedrunNet(nn.Module):
    """A speedrun network for images with three channels."""

    def __init__(
        self,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        logit_scale: float = 1 / 256,
        batch_norm_momentum: float = 0.6,
        num_classes: int = 10,
    ):
        super().__init__()
        self.logit_scale = logit_scale
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.act = nn.GELU()
        for number, (inputs, outputs) in enumerate(zip((24, *widths), widths, strict=False), 1):
            self.add_module(f'layer{number}', _Group(inputs, outputs, depth, batch_norm_momentum))
        self.groups = [f'layer{number}' for number in range(1, len(widths) + 1)]
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)
        nn.init.uniform_(self.fc.weight, -(3**0.5), 3**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.whiten(x))
        for name in self.groups:
            x = getattr(self, name)(x)
        return self.logit_scale * self.fc(x.amax((2, 3)))
