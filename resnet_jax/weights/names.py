"""Names and layouts of our arrays in other libraries.

A naming is a list of rules from our name of a layer ('layer1_0/downsample_conv') to the other library's name
('layer1.0.downsample.0'). The first rule whose pattern matches the whole name applies; if none matches, every '/' becomes '.'.
A new family needs rules only for names that differ from torchvision's. models/resnet.py and models/alexnet.py have tables of
our names and PyTorch's.

  ours: params/<layer>/kernel [height, width, in, out] or [in, out] | weight [out, in, height, width] or [out, in]
  params/<layer>/scale, params/<layer>/bias                         | weight, bias
  batch_stats/<layer>/mean, var                                     | running_mean, running_var
"""

import math
import re
from collections.abc import Mapping

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.models.blocks import D2LResNeXtBlock, ThreeConvBlock
from resnet_jax.typing import PyTree, Variables

Rules = tuple[tuple[str, str], ...]

_BLOCK = (r'layer(\d+)_(\d+)/(.+)', r'layer\1.\2.\3')
_STAGES = range(1, 9)
_TIMM = (
    (r'stem_conv1', r'conv1.0'),
    (r'stem_bn1', r'conv1.1'),
    (r'stem_conv2', r'conv1.3'),
    (r'stem_bn2', r'conv1.4'),
    (r'stem_conv3', r'conv1.6'),
    (r'layer(\d+)_(\d+)/se_fc(\d)', r'layer\1.\2.se.fc\3'),
    _BLOCK,
)
_D2L = (
    (r'conv1', r'net.0.0'),
    (r'bn1', r'net.0.1'),
    (r'fc', r'net.last.2'),
    *((rf'layer{stage}_(\d+)/(.+)', rf'net.b{stage + 1}.\1.\2') for stage in _STAGES),
)


def _d2l(**block: str) -> Rules:
    """Returns D2L's naming with the given names for the layers of a block."""
    return (
        *((rf'layer{stage}_(\d+)/{ours}', rf'net.b{stage + 1}.\1.{name}') for ours, name in block.items() for stage in _STAGES),
        *_D2L,
    )


TORCHVISION = 'torchvision'
NAMINGS: Mapping[str, Rules] = {
    TORCHVISION: (  # and timm, and github.com/chenyaofo/pytorch-cifar-models
        (r'layer(\d+)_(\d+)/downsample_conv', r'layer\1.\2.downsample.0'),
        (r'layer(\d+)_(\d+)/downsample_bn', r'layer\1.\2.downsample.1'),
        *_TIMM,
    ),
    'timm_average': (  # downsample.0 is the pool before the shortcut's convolution
        (r'layer(\d+)_(\d+)/downsample_conv', r'layer\1.\2.downsample.1'),
        (r'layer(\d+)_(\d+)/downsample_bn', r'layer\1.\2.downsample.2'),
        *_TIMM,
    ),
    'kuangliu': (  # and akamaster
        (r'layer(\d+)_(\d+)/downsample_conv', r'layer\1.\2.shortcut.0'),
        (r'layer(\d+)_(\d+)/downsample_bn', r'layer\1.\2.shortcut.1'),
        (r'fc', r'linear'),
        _BLOCK,
    ),
    'weiaicunzai': (  # github.com/weiaicunzai/pytorch-cifar100: ResNet
        (r'conv1', r'conv1.0'),
        (r'bn1', r'conv1.1'),
        *(
            (rf'layer{stage}_(\d+)/{ours}', rf'conv{stage + 1}_x.\1.{theirs}')
            for stage in _STAGES
            for ours, theirs in (
                *((f'conv{n + 1}', f'residual_function.{3 * n}') for n in range(3)),
                *((f'bn{n + 1}', f'residual_function.{3 * n + 1}') for n in range(3)),
                ('downsample_conv', 'shortcut.0'),
                ('downsample_bn', 'shortcut.1'),
            )
        ),
    ),
    'wide_resnet': (  # github.com/xternalz/WideResNet-pytorch
        (r'layer(\d+)_(\d+)/downsample_conv', r'block\1.layer.\2.convShortcut'),
        (r'layer(\d+)_(\d+)/(.+)', r'block\1.layer.\2.\3'),
        (r'final_bn', r'bn1'),
    ),
    'd2l': _d2l(downsample_conv='conv3'),  # Dive into Deep Learning, section 8.6: class ResNet
    'd2l_resnext': _d2l(downsample_conv='conv4', downsample_bn='bn4'),  # section 8.6.5
    'd2l_3conv': _d2l(downsample_conv='conv3', conv3='conv4'),  # the third convolution is conv4, the book's next free name
    'd2l_sequential': (  # D2L's first edition: nn.Sequential(b1, b2, b3, b4, b5, pool, flatten, linear)
        (r'conv1', r'0.0'),
        (r'bn1', r'0.1'),
        (r'fc', r'7'),
        (r'layer(\d+)_(\d+)/downsample_conv', r'\1.\2.conv3'),
        (r'layer(\d+)_(\d+)/(.+)', r'\1.\2.\3'),
    ),
    'alexnet': (  # torchvision's layout, in the version of github.com/icpm/pytorch-cifar10 for small images
        *((rf'conv{ours}', f'features.{theirs}') for ours, theirs in ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))),
        *((rf'fc{ours}', f'classifier.{theirs}') for ours, theirs in ((1, 1), (2, 4), (3, 6))),
    ),
    'd2l_lenet': tuple((ours, f'net.{n}') for ours, n in (('conv1', 0), ('conv2', 3), ('fc1', 7), ('fc2', 9), ('fc3', 11))),
}
FLAX = 'flax'  # our own names and layout

# For each class of model, the linear layer after the flattening, and the convolution before the flattening. The linear kernel's
# rows are in the order height, width, channel here, and channel, height, width in PyTorch.
_FLATTENED = {
    'AlexNet': ('params/fc1/kernel', 'params/conv5/kernel'),
    'LeNet': ('params/fc1/kernel', 'params/conv2/kernel'),
}

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def default_naming(model: nn.Module) -> str:
    """Returns the naming of the usual PyTorch version of a network."""
    if type(model).__name__ == 'AlexNet':
        return 'alexnet'
    if getattr(model, 'stem', None) == 'd2l':
        block = getattr(model.block_cls, 'func', model.block_cls)
        return {D2LResNeXtBlock: 'd2l_resnext', ThreeConvBlock: 'd2l_3conv'}.get(block, 'd2l')
    return 'timm_average' if getattr(model, 'shortcut', None) == 'average' else TORCHVISION


def torch_name(name: str, naming: str) -> str:
    """Returns e.g. 'layer1.0.conv1.weight' for 'params/layer1_0/conv1/kernel'; under `FLAX` the name itself."""
    if naming == FLAX:
        return name
    _, _, rest = name.partition('/')
    layer, _, leaf = rest.rpartition('/')
    for pattern, replacement in NAMINGS[naming]:
        if match := re.fullmatch(pattern, layer):
            layer = match.expand(replacement)
            break
    return f'{layer.replace("/", ".")}.{_LEAVES[leaf]}'


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns PyTorch's shape for one of our shapes."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return outputs, inputs, height, width
    return shape[::-1]


def _image(model: nn.Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int] | None:
    """Returns height, width and channels of a linear layer's flattened input, or None if its input is not flattened."""
    flattened, last = _FLATTENED.get(type(model).__name__, (None, None))
    if name != flattened or last is None:
        return None
    channels = shapes[last][-1]
    side = math.isqrt(shapes[name][0] // channels)
    return side, side, channels


def from_torch(array: np.ndarray, model: nn.Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Returns PyTorch's array in our layout.

    Args:
      name: our name of the array.
      shapes: our shapes of all arrays of the model, by our names.
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if image := _image(model, name, shapes):
        height, width, channels = image
        array = array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
        return array.reshape(-1, array.shape[-1])
    return array.T


def to_torch(array: np.ndarray, model: nn.Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Returns our array in PyTorch's layout, the inverse of `from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if image := _image(model, name, shapes):
        return array.reshape(*image, -1).transpose(3, 2, 0, 1).reshape(array.shape[::-1])
    return array.T


def flatten(variables: Variables) -> dict[str, np.ndarray]:
    """Returns the arrays of nested dicts by name, e.g. 'params/conv1/kernel'."""
    return {name: np.asarray(value) for name, value in flatten_dict(variables, sep='/').items()}


def unflatten(arrays: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
    """Returns nested dicts, the inverse of `flatten`; always contains 'params' and 'batch_stats', which may be empty."""
    nested: dict[str, PyTree] = unflatten_dict(arrays, sep='/')
    return {'params': {}, 'batch_stats': {}} | nested
