import functools
import itertools
import math
import pathlib
import pickle
import re

import jax
import jax.numpy as jnp
import pytest
import torch
import torch_reference as T
from sampling import sample

import resnet_jax.models
from resnet_jax.errors import ConfigError
from resnet_jax.models import BottleneckBlock, available_models, create_model
from resnet_jax.models.activations import ACTIVATIONS
from resnet_jax.models.introspection import layers

AKAMASTER = 'akamaster/pytorch_resnet_cifar10, counted on its resnet.py; He et al., table 6, rounds it'
KUANGLIU = 'kuangliu/pytorch-cifar, counted on its own code; not published'
TIMM = 'huggingface/pytorch-image-models, counted on timm 1.0.31; its results/*.csv round it'
TORCHVISION = 'torchvision 0.29.2, num_params of the IMAGENET1K_V1 weights'
OSMR = 'osmr/imgclsmob, gluon/README.md, table of CIFAR-10'
XTERNALZ = 'xternalz/WideResNet-pytorch, counted on its wideresnet.py'
PRLZ77 = 'prlz77/ResNeXt.pytorch, counted on CifarResNeXt(cardinality, 29, 10, 64, 4) of its models/model.py'
ICPM = 'icpm/pytorch-cifar10, counted on its models/AlexNet.py'
AIRBENCH94 = 'KellerJordan/cifar10-airbench, counted on CifarNet of its airbench94_muon.py'
AIRBENCH96 = 'KellerJordan/cifar10-airbench, counted on make_net of its airbench96_faster.py'
D2L = 'd2l-ai/d2l-en, counted on the PyTorch code of chapter_convolutional-modern/resnet.md'
IMAGENET = {'num_classes': 1000}

# What the table of the models' docstring says of a name: its parameters for 10 classes, or of ImageNet's for 1000.
PARAMETERS = [
    ('lenet5', {}, 62_006, 'as lenet5_relu; for one channel D2L, below'),
    ('lenet5_relu', {}, 62_006, KUANGLIU),
    ('alexnet', {}, 23_272_266, ICPM),
    ('alexnet_imagenet', IMAGENET, 61_100_840, TORCHVISION),
    ('plain20', {}, 269_722, 'He et al., section 4.2: as many as its residual counterpart'),
    ('plain56', {}, 853_018, 'He et al., section 4.2: as many as its residual counterpart'),
    ('resnet8', {}, 75_290, 'akamaster/pytorch_resnet_cifar10, counted on its resnet.py for (1, 1, 1)'),
    ('resnet20', {}, 269_722, AKAMASTER),
    ('resnet32', {}, 464_154, AKAMASTER),
    ('resnet44', {}, 658_586, AKAMASTER),
    ('resnet56', {}, 853_018, AKAMASTER),
    ('resnet110', {}, 1_727_962, AKAMASTER),
    ('resnet1202', {}, 19_421_274, AKAMASTER),
    ('resnet18', {}, 11_173_962, KUANGLIU),
    ('resnet34', {}, 21_282_122, KUANGLIU),
    ('resnet50', {}, 23_520_842, KUANGLIU),
    ('resnet101', {}, 42_512_970, KUANGLIU),
    ('resnet152', {}, 58_156_618, KUANGLIU),
    ('resnet18d', IMAGENET, 11_708_744, TIMM),
    ('resnet34d', IMAGENET, 21_816_904, TIMM),
    ('resnet50d', IMAGENET, 25_576_264, TIMM),
    ('resnet101d', IMAGENET, 44_568_392, TIMM),
    ('resnet152d', IMAGENET, 60_212_040, TIMM),
    ('seresnet18', IMAGENET, 11_779_624, TIMM),
    ('seresnet34', IMAGENET, 21_960_416, TIMM),
    ('seresnet50', IMAGENET, 28_088_024, TIMM),
    ('seresnet101', IMAGENET, 49_326_872, TIMM),
    ('seresnet152', IMAGENET, 66_821_848, TIMM),
    ('preact_resnet18', {}, 11_171_146, KUANGLIU),
    ('preact_resnet34', {}, 21_279_306, KUANGLIU),
    ('preact_resnet50', {}, 23_509_066, KUANGLIU),
    ('resnet164', {}, 1_703_258, OSMR + ', PreResNet-164(BN)'),
    ('resnet1001', {}, 10_327_706, OSMR + ', PreResNet-1001; 10.2 M in the paper'),
    ('wrn_16_4', {}, 2_748_890, XTERNALZ),
    ('wrn_16_8', {}, 10_961_370, XTERNALZ + '; Zagoruyko and Komodakis: 11.0 M'),
    ('wrn_28_10', {}, 36_479_194, OSMR + '; ' + XTERNALZ),
    ('wrn_40_4', {}, 8_949_210, XTERNALZ + '; Zagoruyko and Komodakis: 8.9 M'),
    ('wide_resnet50_2', IMAGENET, 68_883_240, TORCHVISION),
    ('wide_resnet101_2', IMAGENET, 126_886_696, TORCHVISION),
    ('resnext29_4x64d', {}, 17_562_442, PRLZ77),
    ('resnext29_8x64d', {}, 34_426_698, PRLZ77 + '; Xie et al.: 34.4 M'),
    ('resnext50_32x4d', IMAGENET, 25_028_904, TORCHVISION),
    ('resnext101_32x8d', IMAGENET, 88_791_336, TORCHVISION),
    ('d2l_resnet18', {}, 11_184_650, D2L),
    ('d2l_resnet18_3conv', {}, 17_457_290, 'the book has no such network: by hand, below'),
    ('d2l_resnext26', {}, 1_703_818, D2L + ', ResNet-18 of its ResNeXtBlock(c, 16, 1)'),
    ('speedrun94', {}, 1_971_640, AIRBENCH94 + ', without the scales of BatchNorm, which it does not train'),
    ('speedrun96', {}, 9_915_704, AIRBENCH96 + ', the same'),
    ('resnet18', {'stem': 'imagenet', **IMAGENET}, 11_689_512, TORCHVISION),
    ('resnet34', {'stem': 'imagenet', **IMAGENET}, 21_797_672, TORCHVISION),
    ('resnet50', {'stem': 'imagenet', **IMAGENET}, 25_557_032, TORCHVISION),
    ('resnet101', {'stem': 'imagenet', **IMAGENET}, 44_549_160, TORCHVISION),
    ('resnet152', {'stem': 'imagenet', **IMAGENET}, 60_192_808, TORCHVISION),
]

# Others of the same families, which have no name here but published numbers.
RELATIVES = [
    ('resnet164', {'num_classes': 100}, 1_726_388, 'osmr/imgclsmob, gluon/README.md, table of CIFAR-100, PreResNet-164(BN)'),
    ('wrn_16_4', {'num_filters': 160}, 17_116_634, OSMR + ', WRN-16-10'),
    ('wrn_40_4', {'num_filters': 128}, 35_748_314, OSMR + ', WRN-40-8'),
    ('resnet20', {'shortcut': 'projection'}, 272_474, OSMR + ', ResNet-20'),
    ('resnext29_8x64d', {'block_cls': functools.partial(BottleneckBlock, groups=16)}, 68_155_210, OSMR + ', 16x64d'),
    ('resnext29_8x64d', {'block_cls': functools.partial(BottleneckBlock, groups=32, base_width=4)}, 4_775_754, OSMR),
]

HRANK = 'lmbxmu/HRank, README.md, '
CHENYAOFO = 'chenyaofo/pytorch-cifar-models, README.md, #MAdds for CIFAR-10'
MMPRETRAIN = 'open-mmlab/mmpretrain, configs/resnet/README.md, Flops of CIFAR-10; BatchNorm included'
TORCHVISION_OPS = 'torchvision 0.29.2, _ops of the IMAGENET1K_V1 weights'
TIMM_GMACS = 'timm, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv, infer_gmacs; BatchNorm included'
PROJECTION = {'shortcut': 'projection'}

# Published multiply-adds. Sources that count more than convolutions and linear layers say so.
MULTIPLY_ADDS = [
    ('resnet20', PROJECTION, 40.81e6, CHENYAOFO),
    ('resnet32', PROJECTION, 69.12e6, CHENYAOFO),
    ('resnet44', PROJECTION, 97.44e6, CHENYAOFO),
    ('resnet56', PROJECTION, 125.75e6, CHENYAOFO),
    ('resnet20', {}, 40.81e6, CHENYAOFO + '; with option B'),
    ('resnet32', {}, 69.12e6, CHENYAOFO + '; with option B'),
    ('resnet44', {}, 97.44e6, CHENYAOFO + '; with option B'),
    ('resnet56', {}, 62.72e6 / 0.5, HRANK + 'what 62.72 M are 50.0 % less than'),
    ('resnet110', {}, 156.90e6 / (1 - 0.379), HRANK + 'what 156.90 M are 37.9 % less than'),
    ('resnet18', {}, 0.56e9, MMPRETRAIN),
    ('resnet34', {}, 1.16e9, MMPRETRAIN),
    ('resnet50', {}, 1.31e9, MMPRETRAIN),
    ('resnet101', {}, 2.52e9, MMPRETRAIN),
    ('resnet152', {}, 3.74e9, MMPRETRAIN),
    ('alexnet_imagenet', IMAGENET, 0.714e9, TORCHVISION_OPS),
    ('resnet18', {'stem': 'imagenet', **IMAGENET}, 1.814e9, TORCHVISION_OPS),
    ('resnet34', {'stem': 'imagenet', **IMAGENET}, 3.664e9, TORCHVISION_OPS),
    ('resnet50', {'stem': 'imagenet', **IMAGENET}, 4.089e9, TORCHVISION_OPS),
    ('resnet101', {'stem': 'imagenet', **IMAGENET}, 7.801e9, TORCHVISION_OPS),
    ('resnet152', {'stem': 'imagenet', **IMAGENET}, 11.514e9, TORCHVISION_OPS),
    ('resnext50_32x4d', IMAGENET, 4.23e9, TORCHVISION_OPS),
    ('resnext101_32x8d', IMAGENET, 16.414e9, TORCHVISION_OPS),
    ('wide_resnet50_2', IMAGENET, 11.398e9, TORCHVISION_OPS),
    ('wide_resnet101_2', IMAGENET, 22.753e9, TORCHVISION_OPS),
    ('resnet18d', IMAGENET, 2.06e9, TIMM_GMACS),
    ('resnet34d', IMAGENET, 3.91e9, TIMM_GMACS),
    ('resnet50d', IMAGENET, 4.35e9, TIMM_GMACS),
    ('resnet101d', IMAGENET, 8.08e9, TIMM_GMACS),
    ('resnet152d', IMAGENET, 11.80e9, TIMM_GMACS),
    ('seresnet18', IMAGENET, 1.82e9, TIMM_GMACS),
    ('seresnet34', IMAGENET, 3.67e9, TIMM_GMACS),
    ('seresnet50', IMAGENET, 4.11e9, TIMM_GMACS),
    ('seresnet101', IMAGENET, 7.84e9, TIMM_GMACS),
    ('seresnet152', IMAGENET, 11.57e9, TIMM_GMACS),
]

# Published as FLOPs/2, where gluon/model_stats.py counts four FLOPs for each input of a BatchNorm (and one for a ReLU's).
MULTIPLY_ADDS_AND_BATCH_NORM = [
    ('resnet20', PROJECTION, 41.29e6, OSMR + ', ResNet-20'),
    ('resnet56', PROJECTION, 127.06e6, OSMR + ', ResNet-56'),
    ('resnet110', PROJECTION, 255.70e6, OSMR + ', ResNet-110'),
    ('resnet1202', {}, 2857.17e6, OSMR + ', ResNet-1202; with option B'),
    ('resnet164', {}, 255.08e6, OSMR + ', PreResNet-164(BN)'),
    ('resnet1001', {}, 1536.18e6, OSMR + ', PreResNet-1001'),
    ('wrn_28_10', {}, 5246.98e6, OSMR + ', WRN-28-10'),
    ('wrn_16_4', {'num_filters': 160}, 2414.04e6, OSMR + ', WRN-16-10'),
    ('wrn_40_4', {'num_filters': 128}, 5176.90e6, OSMR + ', WRN-40-8'),
    ('resnext29_8x64d', {'block_cls': functools.partial(BottleneckBlock, groups=16)}, 10709.34e6, OSMR + ', 16x64d'),
    ('resnext29_8x64d', {'block_cls': functools.partial(BottleneckBlock, groups=32, base_width=4)}, 780.55e6, OSMR),
]

# Of these no published figure was found: what hooks on the convolutions and linear layers of the source's own code count.
COUNTED_MULTIPLY_ADDS = [
    ('lenet5_relu', {}, 651_720, KUANGLIU),
    ('alexnet', {}, 62_742_528, ICPM),
    ('resnet8', {}, 12_239_488, 'akamaster/pytorch_resnet_cifar10, counted on its resnet.py for (1, 1, 1)'),
    ('preact_resnet18', {}, 555_422_720, KUANGLIU),
    ('preact_resnet34', {}, 1_159_402_496, KUANGLIU),
    ('preact_resnet50', {}, 1_297_829_888, KUANGLIU),
    ('wrn_16_4', {}, 392_612_352, XTERNALZ),
    ('wrn_16_8', {}, 1_548_145_664, XTERNALZ),
    ('wrn_40_4', {}, 1_298_582_016, XTERNALZ),
    ('resnext29_4x64d', {}, 2_736_465_920, PRLZ77),
    ('resnext29_8x64d', {}, 5_387_266_048, PRLZ77),
    ('d2l_resnet18', {}, 37_016_576, D2L),
    ('d2l_resnext26', {}, 9_999_360, D2L + ', ResNet-18 of its ResNeXtBlock(c, 16, 1)'),
    # Less the last row and column of three convolutions, which the source computes and its pools drop: 31, 15 and 7 pixels.
    ('speedrun94', {}, 118_147_360 - 9 * (24 * 64 * 61 + 64 * 256 * 29 + 256 * 256 * 13), AIRBENCH94),
    ('speedrun96', {}, 451_967_264 - 9 * (24 * 128 * 61 + 128 * 384 * 29 + 384 * 512 * 13), AIRBENCH96),
    # Also published, above, but rounded or with another shortcut.
    *((f'resnet{n}', {}, count, AKAMASTER) for n, count in ((20, 40_551_040), (32, 68_862_592), (44, 97_174_144))),
    *((f'resnet{n}', {}, count, AKAMASTER) for n, count in ((56, 125_485_696), (110, 252_887_680), (1202, 2_829_238_912))),
    *((f'resnet{n}', {}, count, KUANGLIU) for n, count in ((18, 555_422_720), (34, 1_159_402_496), (50, 1_297_829_888))),
    *((f'resnet{n}', {}, count, KUANGLIU) for n, count in ((101, 2_509_983_744), (152, 3_722_137_600))),
    ('wrn_28_10', {}, 5_243_328_768, XTERNALZ),
]

# Neither published nor in anybody's code: only our own PyTorch networks, T.NETWORKS, say so.
UNPUBLISHED = {'lenet5', 'plain20', 'plain56', 'd2l_resnet18_3conv'}


@functools.cache
def layers_of(name, **kwargs):
    """The layers, for 224x224 where there are 1000 classes."""
    return layers(create_model(name, **kwargs), 224 if kwargs.get('num_classes') == 1000 else 32)


def row_kwargs(name):
    """Those that the table's numbers for `name` are for."""
    return next(kwargs for row_name, kwargs, *_ in PARAMETERS if row_name == name)


def totals(name, **kwargs):
    """Parameters and multiply-adds."""
    listed = layers_of(name, **kwargs)
    return sum(layer.params for layer in listed), sum(layer.multiply_adds for layer in listed)


def deepest_slow(rows):
    return [pytest.param(*row, marks=pytest.mark.slow if row[0] in ('resnet1001', 'resnet1202') else ()) for row in rows]


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), deepest_slow(PARAMETERS))
def test_published_parameter_counts(name, kwargs, expected, source):
    assert totals(name, **kwargs)[0] == expected, source
    assert f'{expected:,}' in resnet_jax.models.__doc__


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), RELATIVES)
def test_published_parameter_counts_of_their_relatives(name, kwargs, expected, source):
    assert totals(name, **kwargs)[0] == expected, source


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), MULTIPLY_ADDS)
def test_published_multiply_adds(name, kwargs, expected, source):
    assert abs(totals(name, **kwargs)[1] / expected - 1) < 0.01, source


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), deepest_slow(MULTIPLY_ADDS_AND_BATCH_NORM))
def test_published_multiply_adds_with_batch_norm(name, kwargs, expected, source):
    batch_norm = sum(2 * math.prod(layer.shape) for layer in layers_of(name, **kwargs) if layer.kind == 'BatchNorm')
    assert abs((totals(name, **kwargs)[1] + batch_norm) / expected - 1) < 0.01, source


@pytest.mark.parametrize(('name', 'kwargs', 'expected', 'source'), deepest_slow(COUNTED_MULTIPLY_ADDS))
def test_multiply_adds_counted_on_the_sources(name, kwargs, expected, source):
    assert totals(name, **kwargs)[1] == expected, source


def test_lenet_as_in_the_book():
    """d2l-ai/d2l-en, counted on the PyTorch code of chapter_convolutional-neural-networks/lenet.md, for 1x28x28."""
    listed = layers(create_model('lenet5', padding=2), 28, 1)
    assert (sum(layer.params for layer in listed), sum(layer.multiply_adds for layer in listed)) == (61_706, 416_520)


def test_docs_name_the_models_without_published_multiply_adds():
    def as_named(rows):  # with the arguments that the table's numbers are for
        return {name for name, kwargs, *_ in rows if kwargs == row_kwargs(name)}

    published = as_named(MULTIPLY_ADDS) | as_named(MULTIPLY_ADDS_AND_BATCH_NORM)
    unpublished = [name for name in available_models() if name not in published]
    assert set(unpublished) - as_named(COUNTED_MULTIPLY_ADDS) == UNPUBLISHED <= set(T.NETWORKS)
    docs = (pathlib.Path(__file__).parents[2] / 'docs' / 'models.md').read_text()
    (listed,) = re.findall(r'No published multiply-adds were found for ([^.;]+)\.', docs)
    assert re.findall(r'`(\w+)`', listed) == unpublished


@pytest.mark.parametrize('name', sample(T.NETWORKS, 3))
def test_torch_references_have_the_same_numbers(name):
    with torch.device('meta'):
        reference = T.NETWORKS[name]()
    kwargs = row_kwargs(name)
    image_size = 224 if kwargs else 32
    parameters, multiply_adds = totals(name, **kwargs)
    assert parameters == T.num_parameters(reference)
    # Of rows and columns that a pool drops, which PyTorch computes.
    dropped = {'speedrun94': 12_787_200, 'speedrun96': 37_518_336}.get(name, 0)
    assert multiply_adds == T.multiply_adds(reference, image_size) - dropped


# name, layers, params and multiply-adds, which docs/models.md has too
ROW = re.compile(r'^\W*(\w+)`? +\| +(\d+) \| +([\d,]+) \| +([\d.]+ [MG]) ', re.M)
ROWS = ROW.findall(resnet_jax.models.__doc__)


def test_every_model_is_in_the_tables():
    names = list(available_models())
    assert list(dict.fromkeys(name for name, *_ in PARAMETERS)) == names
    assert set(names) - set(T.NETWORKS) == {'resnet1202'}
    assert [name for name, *_ in ROWS] == names
    docs = pathlib.Path(__file__).parents[2] / 'docs' / 'models.md'
    assert ROW.findall(docs.read_text()) == ROWS


@pytest.mark.parametrize(('name', 'layers', 'params', 'multiply_adds'), deepest_slow(ROWS))
def test_numbers_of_the_tables(name, layers, params, multiply_adds):
    total = totals(name, **row_kwargs(name))
    assert (params, multiply_adds) == (f'{total[0]:,}', readable(total[1]))


@pytest.mark.parametrize('name', deepest_slow((name,) for name in available_models()))
def test_layers_of_the_table(name):
    """Layers are convolutions and linear layers on the way, without shortcuts and squeeze-and-excitation."""
    model = create_model(name)
    counted = [
        layer.path
        for layer in layers_of(name, **row_kwargs(name))
        if layer.kind != 'BatchNorm' and 'downsample' not in layer.path and 'se_fc' not in layer.path
    ]
    (number,) = re.findall(rf'^  {name} +\| +(\d+) \|', resnet_jax.models.__doc__, re.M)
    # ResNet-D's stem counts as the one convolution it stands for; a Wide ResNet's name counts the three shortcut
    # convolutions and not the linear layer.
    deep, wide = getattr(model, 'stem', '') == 'deep', name.startswith('wrn')
    assert len(counted) - 2 * deep + 2 * wide == int(number)


def readable(multiply_adds):
    return f'{multiply_adds / 1e9:.2f} G' if multiply_adds >= 1e9 else f'{multiply_adds / 1e6:.2f} M'


def num_parameters(model):
    return sum(layer.params for layer in layers(model))


def test_d2l_parameters_by_hand():
    def conv(size, inputs, outputs):
        return size * size * inputs * outputs + outputs

    def block(inputs, outputs):  # two 3x3 convolutions, two BatchNorms and, where the width changes, a 1x1 convolution
        projection = conv(1, inputs, outputs) if inputs != outputs else 0
        return conv(3, inputs, outputs) + conv(3, outputs, outputs) + 2 * (2 * outputs) + projection

    stem = conv(7, 3, 64) + 2 * 64
    blocks = block(64, 64) + sum(block(c // 2, c) for c in (128, 256, 512)) + sum(block(c, c) for c in (64, 128, 256, 512))
    assert stem + blocks + 512 * 10 + 10 == 11_184_650

    third = 2 * sum(conv(3, c, c) + 2 * c for c in (64, 128, 256, 512))
    assert stem + blocks + third + 512 * 10 + 10 == 17_457_290

    def resnext(inputs, outputs):  # groups of 16: every output sees 16 inputs
        middle = 9 * 16 * outputs + outputs
        projection = conv(1, inputs, outputs) + 2 * outputs if inputs != outputs else 0
        return conv(1, inputs, outputs) + middle + conv(1, outputs, outputs) + 3 * (2 * outputs) + projection

    blocks = (
        resnext(64, 64) + sum(resnext(c // 2, c) for c in (128, 256, 512)) + sum(resnext(c, c) for c in (64, 128, 256, 512))
    )
    assert stem + blocks + 512 * 10 + 10 == 1_703_818


@pytest.mark.parametrize(('layers', 'width', 'expected'), [(16, 4, 2_748_890), (28, 10, 36_479_194), (16, 10, 17_116_634)])
def test_wide_resnet_parameters_by_hand(layers, width, expected):
    def block(inputs, outputs):
        projection = inputs * outputs if inputs != outputs else 0
        return 9 * inputs * outputs + 9 * outputs * outputs + 2 * inputs + 2 * outputs + projection

    widths, more = (16, 16 * width, 32 * width, 64 * width), (layers - 4) // 6 - 1
    total = 9 * 3 * 16 + 2 * widths[3] + 10 * widths[3] + 10
    for inputs, outputs in itertools.pairwise(widths):
        total += block(inputs, outputs) + more * block(outputs, outputs)
    assert total == expected


@pytest.mark.parametrize(('groups', 'base_width', 'expected'), [(4, 64, 17_562_442), (8, 64, 34_426_698), (32, 4, 4_775_754)])
def test_resnext_parameters_by_hand(groups, base_width, expected):
    inputs, total = 64, 9 * 3 * 64 + 2 * 64
    for stage in range(3):
        width, outputs = groups * base_width * 2**stage, 256 * 2**stage
        total += inputs * outputs + 2 * outputs
        for _ in range(3):
            total += inputs * width + 9 * width * (width // groups) + width * outputs + 2 * (2 * width + outputs)
            inputs = outputs
    assert total + 10 * inputs + 10 == expected


def test_depth_and_width_can_be_changed():
    wider = create_model('resnet20', num_classes=100, stage_sizes=[2, 2], num_filters=32)
    assert (wider.num_classes, tuple(wider.stage_sizes), wider.num_filters) == (100, (2, 2), 32)
    assert wider.shortcut == 'identity'
    assert num_parameters(wider) > 0


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('resnet19', {}, r"unknown model 'resnet19'; did you mean 'resnet1\d+'\?; available: lenet5, .*resnet18, "),
        ('Alexnet', {}, "unknown model 'Alexnet'; did you mean 'alexnet'"),
        ('xyz', {}, "unknown model 'xyz'; available: "),
        (None, {}, 'unknown model None; available: '),
        ([], {}, 'unknown model'),
        ('resnet8', {'num_filter': 8}, "resnet8 has no argument 'num_filter'; did you mean 'num_filters'.*stem"),
        ('resnet8', {'parent': None}, "resnet8 has no argument 'parent'"),
        (
            'alexnet',
            {'stems': 'cifar'},
            "alexnet has no argument 'stems'; did you mean 'stem'.; it has: num_classes, stem",
        ),
        ('alexnet', {'num_classes': -1}, 'num_classes must be'),
        ('alexnet', {'dtype': 'int8'}, 'dtype must be'),
        ('resnet8', {'stem': 'd2'}, "stem must be one of 'cifar', 'imagenet', 'd2l', 'deep', 'whitening', not 'd2'"),
    ],
)
def test_errors(name, kwargs, message):
    with pytest.raises(ConfigError, match=message) as info:
        create_model(name, **kwargs)
    assert '\n' not in str(info.value)


def test_activations_and_blocks_by_name():

    from resnet_jax.models import PreActBlock

    model = create_model('resnet8', act='sigmoid', block_cls='PreActBlock')
    assert model.act is ACTIVATIONS['sigmoid'] and model.block_cls is PreActBlock
    for wrong, near in (({'act': 'sigmoi'}, 'sigmoid'), ({'block_cls': 'PreactBlock'}, 'PreActBlock')):
        with pytest.raises(ConfigError, match=f'did you mean {near!r}'):
            create_model('resnet8', **wrong)


@pytest.mark.parametrize('name', available_models())
def test_models_can_be_pickled_and_hashed(name):
    model = create_model(name)
    again = pickle.loads(pickle.dumps(model))
    assert again == model and hash(again) == hash(model)


@pytest.mark.parametrize(('name', 'field'), [('resnet8', 'stage_sizes'), ('speedrun94', 'widths')])
def test_a_list_is_as_good_as_a_tuple(name, field):
    model, other = create_model(name, **{field: [1, 2]}), create_model(name, **{field: (1, 2)})
    assert model == other and hash(model) == hash(other)


@pytest.mark.parametrize('name', ['resnet8', 'preact_resnet18', 'seresnet18', 'speedrun94', 'lenet5', 'alexnet'])
def test_flax_tabulates_a_model(name):
    images = jnp.zeros((1, 32, 32, 3))
    assert 'Total' in create_model(name).tabulate(jax.random.key(0), images, train=False, console_kwargs={'width': 200})
