"""The benchmark's networks in PyTorch; their steps, and their conversion to Flax variables, for parity tests."""

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resnet_jax.benchmark.torch_classics import *  # noqa: F403
from resnet_jax.benchmark.torch_classics import D2LResidual, D2LResNeXtBlock, ThreeConvResidual
from resnet_jax.benchmark.torch_networks import *  # noqa: F403
from resnet_jax.benchmark.torch_resnets import *  # noqa: F403


class D2LLeNet(nn.Module):
    """Dive into Deep Learning, section 7.6: sigmoids, average pools, images of 28x28 with one channel."""

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


def randomise(module, seed=0):
    """Gives every BatchNorm random statistics, scales and biases; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                if tensor is not None:
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
    (r'^layer(\d+)\.([a-z]\w+)$', r'layer\1/\2'),
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
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}
    gradients = flax_variables(module, gradients)['params']
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
