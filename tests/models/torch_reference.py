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

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class D2LLeNet(nn.Module):
    """Dive into Deep Learning, section 7.6: sigmoids, average pools, one channel of 28x28."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.Sigmoid()),
            *(nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10)),
        )

    def forward(self, x):
        return self.net(x)


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


# What differs from class to class; fc1 with the channels of the maps it sees.
_NAMES = {
    'AlexNet': (
        ('features.0', 'features.3', 'features.6', 'features.8', 'features.10', *(f'classifier.{i}' for i in (1, 4, 6))),
        ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc1', 'fc2', 'fc3'),
    ),
    'D2LLeNet': (('net.0', 'net.3', 'net.7', 'net.9', 'net.11'), ('conv1', 'conv2', 'fc1', 'fc2', 'fc3')),
}
_NAMES['ImageNetAlexNet'] = _NAMES['AlexNet']
_FC1_CHANNELS = {'AlexNet': 256, 'ImageNetAlexNet': 256, 'LeNet': 16, 'D2LLeNet': 16}

_D2L_BLOCKS = {
    D2LResidual: {'conv3': 'downsample_conv'},
    ThreeConvResidual: {'conv3': 'downsample_conv', 'conv4': 'conv3'},
    D2LResNeXtBlock: {'conv4': 'downsample_conv', 'bn4': 'downsample_bn'},
}
_PATTERNS = (
    (r'^net\.0\.0$', 'conv1'),
    (r'^net\.0\.1$', 'bn1'),
    (r'^net\.last\.2$', 'fc'),
    (r'^linear$', 'fc'),
    (r'^bn$', 'final_bn'),
    (r'^conv1\.0$', 'stem_conv1'),
    (r'^conv1\.1$', 'stem_bn1'),
    (r'^conv1\.3$', 'stem_conv2'),
    (r'^conv1\.4$', 'stem_bn2'),
    (r'^conv1\.6$', 'stem_conv3'),
    (r'^layer(\d+)\.(\d+)\.(\w+)$', r'layer\1_\2/\3'),
    (r'^layer(\d+)\.(\d+)\.se\.(\w+)$', r'layer\1_\2/se_\3'),
    (r'^layer(\d+)\.(\d+)\.shortcut\.0$', r'layer\1_\2/downsample_conv'),
)


def flax_name(module, layer):
    """The path of a PyTorch layer's parameters in our trees: 'layer1.0.conv1' gives 'layer1_0/conv1'."""
    if names := _NAMES.get(type(module).__name__):
        return dict(zip(*names, strict=True))[layer]
    if match := re.match(r'^net\.b(\d+)\.(\d+)\.(\w+)$', layer):
        block, name = layer.rsplit('.', 1)
        name = _D2L_BLOCKS[type(module.get_submodule(block))].get(name, name)
        return f'layer{int(match[1]) - 1}_{match[2]}/{name}'
    if match := re.match(r'^layer(\d+)\.(\d+)\.downsample\.\d$', layer):
        kind = 'conv' if isinstance(module.get_submodule(layer), nn.Conv2d) else 'bn'
        return f'layer{match[1]}_{match[2]}/downsample_{kind}'
    for pattern, replacement in _PATTERNS:
        if re.match(pattern, layer):
            return re.sub(pattern, replacement, layer)
    return layer


def flax_variables(module, tensors=None):
    """Returns {'params', 'batch_stats'} of our model with this PyTorch module's numbers, or with the tensors of its names."""
    variables = {'params': {}, 'batch_stats': {}}
    for key, tensor in (tensors or module.state_dict()).items():
        layer, _, kind = key.rpartition('.')
        array = tensor.detach().numpy()
        if kind == 'num_batches_tracked':
            continue
        *path, last = flax_name(module, layer).split('/')
        if kind in ('running_mean', 'running_var'):
            collection, leaf = 'batch_stats', kind.removeprefix('running_')
        elif kind == 'bias':
            collection, leaf = 'params', 'bias'
        elif array.ndim == 4:
            collection, leaf, array = 'params', 'kernel', array.transpose(2, 3, 1, 0)
        elif last == 'fc1' and type(module).__name__ in _FC1_CHANNELS:
            channels = _FC1_CHANNELS[type(module).__name__]
            size = round((array.shape[1] / channels) ** 0.5)
            array = array.reshape(-1, channels, size, size).transpose(2, 3, 1, 0).reshape(-1, len(array))
            collection, leaf = 'params', 'kernel'
        elif array.ndim == 2:
            collection, leaf, array = 'params', 'kernel', array.T
        else:
            collection, leaf = 'params', 'scale'
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


def torch_step(module, images, labels, train=True):
    """One step's loss, gradients and new batch statistics, the last two as our trees, and the examples each BatchNorm saw.

    The examples are in a tree as `batch_stats`.
    """
    counts = {}

    def count(name):
        def hook(_, inputs, __):
            counts[f'{name}.running_mean'] = counts[f'{name}.running_var'] = torch.tensor(
                inputs[0].numel() // inputs[0].shape[1]
            )

        return hook

    hooks = [
        layer.register_forward_hook(count(name)) for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)
    ]
    logits = module.train(train)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    loss = F.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    for hook in hooks:
        hook.remove()
    gradients = flax_variables(module, {name: parameter.grad for name, parameter in module.named_parameters()})['params']
    seen = flax_variables(module, counts)['batch_stats'] if counts else {}
    return loss.item(), gradients, flax_variables(module)['batch_stats'], seen


def multiply_adds(module, image_size, channels=3):
    """Of a module on the meta device: those of convolutions and linear layers, for one image."""
    total = 0

    def hook(layer, _, out):
        nonlocal total
        total += layer.weight.numel() * (out.shape[2] * out.shape[3] if out.ndim == 4 else 1)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    with torch.device('meta'):
        module.eval()(torch.zeros(1, channels, image_size, image_size))
    return total
