"""The same networks in PyTorch, and the conversion of their state dicts to Flax variables, for parity tests."""

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Pad(nn.Module):
    """Option A: every second pixel where the stride is 2, and zero channels half before, half after."""

    def __init__(self, extra, stride):
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def shortcut(kind, in_planes, planes, stride):
    if stride == 1 and in_planes == planes:
        return nn.Sequential()
    if kind == 'identity':
        return Pad(planes - in_planes, stride)
    return nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride, kind):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(kind, in_planes, planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes, planes, stride, kind):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(kind, in_planes, 4 * planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """torchvision's names; `stem` 'cifar' or 'imagenet', `kind` of shortcut 'projection' or 'identity'."""

    def __init__(self, block, stage_sizes, num_filters=64, stem='cifar', kind='projection', num_classes=10):
        super().__init__()
        if stem == 'cifar':
            self.conv1, self.maxpool = nn.Conv2d(3, num_filters, 3, padding=1, bias=False), nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, num_filters, 7, 2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.bn1 = nn.BatchNorm2d(num_filters)
        in_planes, self.num_stages = num_filters, len(stage_sizes)
        for stage, size in enumerate(stage_sizes, start=1):
            blocks, planes = [], num_filters * 2 ** (stage - 1)
            for index in range(size):
                blocks.append(block(in_planes, planes, 2 if stage > 1 and index == 0 else 1, kind))
                in_planes = planes * block.expansion
            self.add_module(f'layer{stage}', nn.Sequential(*blocks))
        self.fc = nn.Linear(in_planes, num_classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f'layer{stage}')(x)
        return self.fc(x.mean((2, 3)))


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


class D2LResNet(nn.Module):
    """Dive into Deep Learning, section 8.6.3, with its names; `arch` holds (blocks, channels) of each stage."""

    def __init__(self, arch=((2, 64), (2, 128), (2, 256), (2, 512)), num_classes=10):
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
            first = D2LResidual(channels, wider, use_1x1conv=True, strides=2) if stage else D2LResidual(wider, wider)
            blocks = [first, *(D2LResidual(wider, wider) for _ in range(size - 1))]
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


def randomise(module, seed=0):
    """Gives every BatchNorm random statistics, scales and biases; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (layer.bias, layer.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)
    return module


_ALEXNET_NAMES = dict(
    zip(
        ('features.0', 'features.3', 'features.6', 'features.8', 'features.10'),
        ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'),
        strict=True,
    )
) | {'classifier.1': 'fc1', 'classifier.4': 'fc2', 'classifier.6': 'fc3'}

_PATTERNS = (
    (r'^net\.0\.0$', 'conv1'),
    (r'^net\.0\.1$', 'bn1'),
    (r'^net\.last\.2$', 'fc'),
    (r'^net\.b(\d+)\.(\d+)\.conv3$', lambda m: f'layer{int(m[1]) - 1}_{m[2]}/downsample_conv'),
    (r'^net\.b(\d+)\.(\d+)\.(\w+)$', lambda m: f'layer{int(m[1]) - 1}_{m[2]}/{m[3]}'),
    (r'^layer(\d+)\.(\d+)\.downsample\.0$', r'layer\1_\2/downsample_conv'),
    (r'^layer(\d+)\.(\d+)\.downsample\.1$', r'layer\1_\2/downsample_bn'),
    (r'^layer(\d+)\.(\d+)\.(\w+)$', r'layer\1_\2/\3'),
)


def flax_name(layer):
    """The path of a PyTorch layer's parameters in our trees: 'layer1.0.conv1' gives 'layer1_0/conv1'."""
    for pattern, replacement in _PATTERNS:
        if re.match(pattern, layer):
            return re.sub(pattern, replacement, layer)
    return _ALEXNET_NAMES.get(layer, layer)


def flax_variables(module):
    """Returns {'params', 'batch_stats'} of our model with this PyTorch module's numbers."""
    variables = {'params': {}, 'batch_stats': {}}
    for key, tensor in module.state_dict().items():
        layer, _, kind = key.rpartition('.')
        array = tensor.numpy()
        if kind == 'num_batches_tracked':
            continue
        if kind in ('running_mean', 'running_var'):
            collection, leaf = 'batch_stats', kind.removeprefix('running_')
        elif kind == 'bias':
            collection, leaf = 'params', 'bias'
        elif array.ndim == 4:
            collection, leaf, array = 'params', 'kernel', array.transpose(2, 3, 1, 0)
        elif layer == 'classifier.1':
            array = array.reshape(-1, 256, 2, 2).transpose(2, 3, 1, 0).reshape(-1, len(array))
            collection, leaf = 'params', 'kernel'
        elif array.ndim == 2:
            collection, leaf, array = 'params', 'kernel', array.T
        else:
            collection, leaf = 'params', 'scale'
        *path, last = flax_name(layer).split('/')
        node = variables[collection]
        for part in path:
            node = node.setdefault(part, {})
        node.setdefault(last, {})[leaf] = np.array(array)
    return variables


def torch_logits(module, images):
    """Logits of NHWC float32 images, in evaluation mode."""
    with torch.no_grad():
        return module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())
