import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
import torch
import torch_reference

import resnet_jax.models
from resnet_jax.errors import ConfigError
from resnet_jax.models import available_models, create_model

AKAMASTER = 'akamaster/pytorch_resnet_cifar10, resnet.py, test(); He et al., table 6'
TORCHVISION = 'torchvision.models, num_params of the IMAGENET1K_V1 weights'
PARAMETERS = [
    ('resnet8', {}, 75_290, 'akamaster/pytorch_resnet_cifar10, resnet.py, for (1, 1, 1)'),
    ('resnet20', {}, 269_722, AKAMASTER),
    ('resnet32', {}, 464_154, AKAMASTER),
    ('resnet44', {}, 658_586, AKAMASTER),
    ('resnet56', {}, 853_018, AKAMASTER),
    ('resnet110', {}, 1_727_962, AKAMASTER),
    ('resnet1202', {}, 19_421_274, AKAMASTER),
    ('resnet18', {}, 11_173_962, 'kuangliu/pytorch-cifar, ResNet18'),
    ('resnet34', {}, 21_282_122, 'kuangliu/pytorch-cifar, ResNet34'),
    ('resnet50', {}, 23_520_842, 'kuangliu/pytorch-cifar, ResNet50'),
    ('resnet101', {}, 42_512_970, 'kuangliu/pytorch-cifar, ResNet101'),
    ('resnet152', {}, 58_156_618, 'kuangliu/pytorch-cifar, ResNet152'),
    ('d2l_resnet18', {}, 11_184_650, 'by hand, below'),
    ('alexnet', {}, 23_272_266, 'icpm/pytorch-cifar10, models/AlexNet.py'),
    ('resnet18', {'stem': 'imagenet', 'num_classes': 1000}, 11_689_512, TORCHVISION),
    ('resnet34', {'stem': 'imagenet', 'num_classes': 1000}, 21_797_672, TORCHVISION),
    ('resnet50', {'stem': 'imagenet', 'num_classes': 1000}, 25_557_032, TORCHVISION),
    ('resnet101', {'stem': 'imagenet', 'num_classes': 1000}, 44_549_160, TORCHVISION),
    ('resnet152', {'stem': 'imagenet', 'num_classes': 1000}, 60_192_808, TORCHVISION),
]


def num_parameters(model):
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), PARAMETERS)
def test_published_parameter_counts(name, kwargs, expected, source):
    assert num_parameters(create_model(name, **kwargs)) == expected, source
    assert f'{expected:,}' in resnet_jax.models.__doc__


def test_every_model_is_counted_and_in_the_table():
    assert {name for name, *_ in PARAMETERS} == set(available_models())
    assert set(re.findall(r'^  (\w+) +\| +\d+ \|', resnet_jax.models.__doc__, re.M)) == set(available_models())


def test_d2l_parameters_by_hand():
    def conv(size, inputs, outputs):
        return size * size * inputs * outputs + outputs

    def block(inputs, outputs):  # two 3x3 convolutions, two BatchNorms and, where the width changes, a 1x1 convolution
        projection = conv(1, inputs, outputs) if inputs != outputs else 0
        return conv(3, inputs, outputs) + conv(3, outputs, outputs) + 2 * (2 * outputs) + projection

    stem = conv(7, 3, 64) + 2 * 64
    blocks = block(64, 64) + sum(block(c // 2, c) for c in (128, 256, 512)) + sum(block(c, c) for c in (64, 128, 256, 512))
    assert stem + blocks + 512 * 10 + 10 == 11_184_650


@pytest.mark.parametrize(
    ('make_reference', 'expected'),
    [
        (
            functools.partial(torch_reference.ResNet, torch_reference.BasicBlock, (3, 3, 3), 16, kind='identity'),
            269_722,
        ),
        (functools.partial(torch_reference.ResNet, torch_reference.BasicBlock, (2, 2, 2, 2)), 11_173_962),
        (
            functools.partial(
                torch_reference.ResNet, torch_reference.Bottleneck, (3, 4, 6, 3), stem='imagenet', num_classes=1000
            ),
            25_557_032,
        ),
        (torch_reference.D2LResNet, 11_184_650),
    ],
)
def test_torch_references_have_the_same_counts(make_reference, expected):
    with torch.device('meta'):
        assert torch_reference.num_parameters(make_reference()) == expected


def test_depth_and_width_can_be_changed():
    wider = create_model('resnet20', num_classes=100, stage_sizes=[2, 2], num_filters=32)
    assert (wider.num_classes, tuple(wider.stage_sizes), wider.num_filters) == (100, (2, 2), 32)
    assert wider.shortcut == 'identity'
    assert num_parameters(wider) > 0


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('resnet19', {}, r"unknown model 'resnet19'; did you mean 'resnet1\d+'\?; available: resnet8, .*alexnet"),
        ('Alexnet', {}, "unknown model 'Alexnet'; did you mean 'alexnet'"),
        ('xyz', {}, "unknown model 'xyz'; available: "),
        (None, {}, 'unknown model None; available: '),
        ([], {}, 'unknown model'),
        ('resnet8', {'num_filter': 8}, "resnet8 has no argument 'num_filter'; did you mean 'num_filters'.*stem"),
        ('resnet8', {'parent': None}, "resnet8 has no argument 'parent'"),
        ('alexnet', {'stem': 'cifar'}, "alexnet has no argument 'stem'; it has: num_classes, dtype"),
        ('alexnet', {'num_classes': -1}, 'num_classes must be'),
        ('alexnet', {'dtype': 'int8'}, 'dtype must be'),
        ('resnet8', {'stem': 'd2'}, "stem must be one of 'cifar', 'imagenet', 'd2l', not 'd2'"),
    ],
)
def test_errors(name, kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        create_model(name, **kwargs)
    assert '\n' not in str(info.value)
