import collections
import functools
import logging
import re
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torch_reference
from sampling import sample
from weight_files import torch_file

from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.weights import load_variables, save_safetensors
from resnet_jax.weights.files import write_safetensors

pytestmark = pytest.mark.usefixtures('quick_compilation')

SMALL = {'stage_sizes': (1, 2), 'num_filters': 6}
RESNET = {'resnet18': torch_reference.BasicBlock, 'resnet50': torch_reference.Bottleneck}


def renamed(state_dict, *rules):
    """A state dict whose names are changed by (pattern, replacement)."""
    result = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


KUANGLIU = (r'downsample', 'shortcut'), (r'^fc', 'linear')
AKAMASTER = (r'^', 'module.'), (r'module\.fc', 'module.linear')
D2L_SEQUENTIAL = (
    (r'^net\.last\.2', '7'),
    (r'^net\.b(\d)', lambda m: str(int(m[1]) - 1)),
    (r'^net\.', ''),
)
# github.com/weiaicunzai/pytorch-cifar100, models/resnet.py
WEIAICUNZAI = (
    (r'^conv1', 'conv1.0'),
    (r'^bn1', 'conv1.1'),
    (
        r'^layer(\d)\.(\d)\.(conv|bn)(\d)',
        lambda m: f'conv{int(m[1]) + 1}_x.{m[2]}.residual_function.{3 * int(m[4]) - 3 + (m[3] == "bn")}',
    ),
    (r'^layer(\d)\.(\d)\.downsample', lambda m: f'conv{int(m[1]) + 1}_x.{m[2]}.shortcut'),
)
WIDE_RESNET = (
    (r'^layer(\d)\.(\d)', r'block\1.layer.\2'),
    (r'shortcut\.0', 'convShortcut'),
    (r'^bn\.', 'bn1.'),
    (r'^linear', 'fc'),
)
# As in the wild: the file's names, the model's name and arguments, and the PyTorch network.
D2L = 'd2l_resnet18', {'stage_sizes': (2, 1, 1, 1), 'num_filters': 4}
d2l = functools.partial(torch_reference.D2LResNet, ((2, 4), (1, 8), (1, 16), (1, 32)), 7)
CASES = {
    f'torchvision {name} {stem}': (
        (),
        (name, {**SMALL, 'stem': stem}),
        functools.partial(torch_reference.ResNet, block, (1, 2), 6, stem, num_classes=7),
    )
    for name, block in RESNET.items()
    for stem in ('cifar', 'imagenet')
} | {
    'kuangliu': (
        KUANGLIU,
        ('resnet18', SMALL),
        functools.partial(torch_reference.ResNet, RESNET['resnet18'], (1, 2), 6, num_classes=7),
    ),
    **{
        f'weiaicunzai {name}': (
            WEIAICUNZAI,
            (name, SMALL),
            functools.partial(torch_reference.ResNet, block, (1, 2), 6, num_classes=7),
        )
        for name, block in RESNET.items()
    },
    'chenyaofo': (  # github.com/chenyaofo/pytorch-cifar-models: projections, where the paper's networks have none
        (),
        ('resnet8', {**SMALL, 'shortcut': 'projection'}),
        functools.partial(torch_reference.ResNet, RESNET['resnet18'], (1, 2), 6, 'cifar', 'projection', num_classes=7),
    ),
    'akamaster': (
        AKAMASTER,
        ('resnet8', SMALL),
        functools.partial(torch_reference.ResNet, RESNET['resnet18'], (1, 2), 6, 'cifar', 'identity', 7),
    ),
    'compiled and parallel': (
        ((r'^', '_orig_mod.module.'),),
        ('resnet8', SMALL),
        functools.partial(torch_reference.ResNet, RESNET['resnet18'], (1, 2), 6, 'cifar', 'identity', 7),
    ),
    'd2l': ((), D2L, d2l),
    'd2l_sequential': (D2L_SEQUENTIAL, D2L, d2l),
    'd2l_resnext': (
        (),
        ('d2l_resnext26', {'stage_sizes': (1, 2), 'num_filters': 16}),
        functools.partial(torch_reference.D2LResNet, ((1, 16), (2, 32)), 7, torch_reference.D2LResNeXtBlock),
    ),
    'd2l_3conv': (
        (),
        ('d2l_resnet18_3conv', {'stage_sizes': (1, 2), 'num_filters': 4}),
        functools.partial(torch_reference.D2LResNet, ((1, 4), (2, 8)), 7, torch_reference.ThreeConvResidual),
    ),
    **{
        f'timm {name}': (
            (),
            (name, {'stage_sizes': (1, 2), 'num_filters': 16}),
            functools.partial(torch_reference.ResNet, block, (1, 2), 16, *arguments, num_classes=7, **options),
        )
        for name, block, arguments, options in (
            ('resnet18d', torch_reference.BasicBlock, ('deep', 'average'), {}),
            ('resnet50d', torch_reference.Bottleneck, ('deep', 'average'), {}),
            ('seresnet18', torch_reference.BasicBlock, ('imagenet',), {'se': True}),
            ('seresnet50', torch_reference.Bottleneck, ('imagenet',), {'se': True}),
            ('resnext50_32x4d', torch_reference.Bottleneck, ('imagenet',), {'groups': 32, 'base_width': 4}),
            ('wide_resnet50_2', torch_reference.Bottleneck, ('imagenet',), {'base_width': 128}),
        )
    },
    **{
        f'kuangliu {name}': (
            ((r'^', 'module.'),),
            (name, SMALL),
            functools.partial(torch_reference.PreActResNet, block, (1, 2), 6, num_classes=7),
        )
        for name, block in (
            ('preact_resnet18', torch_reference.PreActBlock),
            ('preact_resnet50', torch_reference.PreActBottleneck),
        )
    },
    'wide_resnet': (
        WIDE_RESNET,
        ('wrn_16_4', {'stage_sizes': (1, 2), 'num_filters': 8, 'stem_filters': 4}),
        functools.partial(torch_reference.PreActResNet, torch_reference.PreActBlock, (1, 2), 8, 4, True, 7),
    ),
    'alexnet': ((), ('alexnet', {}), functools.partial(torch_reference.AlexNet, 7)),
}


def loaded(case, folder):
    """What is loaded of a case's file, and the PyTorch network."""
    rules, (name, kwargs), make = CASES[case]
    torch.manual_seed(0)
    reference = torch_reference.randomise(make())
    path = folder / 'model.pth'
    path.write_bytes(torch_file({'net': renamed(reference.state_dict(), *rules), 'epoch': 3}))
    return *load_variables(path, name, **kwargs), reference


@pytest.mark.parametrize('case', CASES)
def test_names_of_others_are_recognised(case, tmp_path):
    model, variables, metadata, reference = loaded(case, tmp_path)
    assert model.num_classes == metadata['num_classes'] == 7
    chex.assert_trees_all_equal(variables, torch_reference.flax_variables(reference))


@pytest.mark.parametrize('case', sample(CASES, 4))
def test_networks_of_others_have_the_same_logits(case, tmp_path):
    """tests/models/test_resnet.py compares networks that hold such variables with PyTorch, in training too."""
    model, variables, _, reference = loaded(case, tmp_path)
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    expected = torch_reference.torch_logits(reference, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def small_reference(**kwargs):
    torch.manual_seed(0)
    return torch_reference.randomise(torch_reference.ResNet(torch_reference.BasicBlock, (1, 2), 6, **kwargs))


def save(path, tensors):
    """Writes tensors, as .safetensors where the name says so."""
    if path.suffix == '.safetensors':
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        path.write_bytes(torch_file(tensors))
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype, suffix, tmp_path):
    tensors = {name: tensor.to(dtype) for name, tensor in small_reference().state_dict().items()}
    variables = load_variables(save(tmp_path / f'model{suffix}', tensors), 'resnet18', **SMALL)[1]
    np.testing.assert_array_equal(variables['params']['fc']['kernel'], tensors['fc.weight'].float().numpy().T)
    for leaf in jax.tree.leaves(variables):
        assert leaf.dtype == np.float32 and leaf.flags.c_contiguous


@pytest.mark.parametrize(
    ('tensor', 'text'),
    [
        (torch.full((10,), float('nan')), 'not finite'),
        (torch.full((10,), 1e300, dtype=torch.float64), 'not finite in float32'),
        (torch.ones(10, dtype=torch.int64), 'fc.bias is int64; expected floating-point'),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tensor, text, tmp_path):
    path = save(tmp_path / 'model.pth', {**small_reference().state_dict(), 'fc.bias': tensor})
    with pytest.raises(InputFileError, match=text):
        load_variables(path, 'resnet18', **SMALL)


def test_all_differences_are_listed_with_shapes(tmp_path, caplog):
    tensors = small_reference().state_dict()
    tensors['extra\x1b[2J.weight'] = torch.ones(2, 3)
    tensors['conv1.weight'] = torch.ones(6, 3, 5, 5)
    del tensors['layer1.0.bn1.bias']
    caplog.set_level(logging.WARNING, 'resnet_jax')
    with pytest.raises(InputFileError) as info:
        load_variables(save(tmp_path / 'model.pth', tensors), 'resnet18', **SMALL)
    message = str(info.value)
    assert message.isprintable()
    assert '1 missing (layer1.0.bn1.bias [6])' in message
    assert r"1 unmatched ('extra\x1b[2J.weight' [2, 3])" in message
    assert '1 of another shape (conv1.weight [6, 3, 5, 5], expected [6, 3, 3, 3])' in message
    assert len(caplog.messages) == 3 and 'missing: layer1.0.bn1.bias [6]' in caplog.messages


@pytest.mark.parametrize(
    ('size', 'stem', 'kind', 'wrong', 'text'),
    [
        ((3, 3, 3), 'cifar', 'identity', 'resnet56', 'the nearest is resnet20 (97 of 97 tensors fit)'),
        ((5, 5, 5), 'cifar', 'identity', 'alexnet', 'the nearest is resnet32 (157 of 157 tensors fit)'),
        ((2, 2, 2, 2), 'imagenet', 'projection', 'resnet18', 'the nearest is resnet18 with stem=imagenet (102 of 102'),
    ],
)
def test_the_nearest_model_is_named(size, stem, kind, wrong, text, tmp_path):
    filters = 16 if len(size) == 3 else 64
    reference = torch_reference.ResNet(torch_reference.BasicBlock, size, filters, stem, kind, 1000)
    with pytest.raises(InputFileError, match=re.escape(text).replace('97', r'\d+').replace('157', r'\d+')):
        load_variables(save(tmp_path / 'model.pth', reference.state_dict()), wrong)


def test_a_file_that_resembles_nothing(tmp_path):
    with pytest.raises(InputFileError, match='resembles no model here'):
        load_variables(save(tmp_path / 'model.pth', {'a': torch.ones(2)}), 'resnet8')


def test_more_classes_than_the_file_are_refused(tmp_path):
    path = save(tmp_path / 'model.pth', small_reference(num_classes=100).state_dict())
    with pytest.raises(InputFileError, match=r'fc.bias \[100\], expected \[10\]'):
        load_variables(path, 'resnet18', num_classes=10, **SMALL)
    reference = torch_reference.ResNet(torch_reference.BasicBlock, (3, 3, 3), 16, 'cifar', 'identity', 100)
    with pytest.raises(InputFileError, match=r'the nearest is resnet20 with num_classes=100 \(\d+ of \d+ tensors fit\)'):
        load_variables(save(tmp_path / 'model.pth', reference.state_dict()), 'resnet20', num_classes=10)


@pytest.mark.slow
def test_other_shortcuts_are_offered(tmp_path):
    reference = torch_reference.ResNet(torch_reference.BasicBlock, (3, 3, 3), 16, 'cifar', 'projection', 10)
    with pytest.raises(InputFileError, match=r'the nearest is resnet20 with shortcut=projection \((\d+) of \1 tensors fit\)'):
        load_variables(save(tmp_path / 'model.pth', reference.state_dict()), 'resnet20')


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def in_other_places(reference, other):
    """Files that have the state dict of `reference` where training scripts put it."""
    tensors, noise = reference.state_dict(), other.state_dict()
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith('fc')}
    head = {name: tensor for name, tensor in tensors.items() if name.startswith('fc')}
    trained = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9)
    return {
        'averaged': torch.optim.swa_utils.AveragedModel(reference).state_dict(),
        'lightning': {
            'state_dict': {**prefixed('model.', tensors), 'criterion.weight': torch.ones(10)},
            'callbacks': {'ModelCheckpoint': {'best_model_score': torch.tensor(0.5)}},
            'optimizer_states': [trained.state_dict()],
        },
        'nested': {'model': {'state_dict': tensors}, 'epoch': torch.tensor(3)},
        'deeper': {'a': {'b': {'c': prefixed('net.backbone.', tensors)}}},
        **{f'under {name}': {name: tensors} for name in ('ema', 'network', 'weights', 'params', 'model_ema', 'G')},
        **{
            f'prefix {name}': prefixed(name, tensors)
            for name in ('net.', 'backbone.', 'module.model.', '_orig_mod.', 'a.b.c.d.')
        },
        'a head outside': {**prefixed('backbone.', body), **head},
        'two copies': {**tensors, **prefixed('teacher.', noise)},
        'two copies with prefixes': {**prefixed('student.', tensors), 'teacher.conv1.weight': torch.ones(2)},
        'counters': {**tensors, 'n_averaged': torch.tensor(5), 'epoch': torch.tensor(1)},
        'two networks': {'generator': {'conv1.weight': torch.ones(3), 'b': torch.ones(2)}, 'classifier': tensors},
        'averaged beside': {'state_dict_ema': noise, 'state_dict': tensors},
        'in a tuple': (3, tensors, {'state': {}}),
        'in a list': {'models': [tensors]},
        'under a number': {0: tensors},
        'under a path': {'runs/a/b/c/d/e/f/g/h': {'state_dict': tensors}},
        'six levels deep': {'a': {'b': {'c': {'d': {'e': {'f': tensors}}}}}},
        'in a defaultdict': {'state': collections.defaultdict(dict, {'model': tensors})},
        'as a defaultdict': collections.defaultdict(int, tensors),
        'operations counted': {**tensors, 'total_ops': torch.ones(1), 'layer1.0.total_params': torch.ones(1)},
        'an empty buffer': {**tensors, '_dummy': torch.ones(0)},
        'body and head apart': {**prefixed('backbone.', body), **prefixed('head.', head)},
        'a loss': {**tensors, 'criterion.weight': torch.ones(10), 'arcface.weight': torch.ones(10, 3)},
        'pixels': {**tensors, 'mean': torch.ones(1, 3, 1, 1), 'normalize.std': torch.ones(3)},
        'ema_pytorch': {**prefixed('online_model.', tensors), **prefixed('ema_model.', noise), 'step': torch.tensor(3)},
        'a long name': {**prefixed('net.', tensors), 'module.' * 100_000: torch.ones(1)},
    }


PLACES = list(in_other_places(small_reference(), small_reference()))


@pytest.mark.parametrize('place', PLACES)
def test_the_state_dict_is_found_wherever_it_is(place, tmp_path):
    reference = small_reference()
    other = torch_reference.randomise(torch_reference.ResNet(torch_reference.BasicBlock, (1, 2), 6))
    path = save(tmp_path / 'model.pth', in_other_places(reference, other)[place])
    variables = load_variables(path, 'resnet18', **SMALL)[1]
    chex.assert_trees_all_equal(variables, torch_reference.flax_variables(reference))


def test_averaged_weights_are_taken_on_request(tmp_path):
    reference, averaged = small_reference(), torch_reference.randomise(small_reference())
    ours, theirs = reference.state_dict(), averaged.state_dict()
    files = [{'state_dict': ours, name: theirs} for name in ('state_dict_ema', 'modelEMA', 'swa_state_dict', 'averaged_model')]
    files += [{'model': ours, 'ema': {'shadow': theirs, 'decay': 0.9}}]
    files += [{**prefixed('online_model.', ours), **prefixed('ema_model.module.', theirs), 'initted': torch.tensor(True)}]
    files += [{'state_dict': {**prefixed('model.', ours), **prefixed('model_ema.', theirs)}}]
    for saved in files:
        path = save(tmp_path / 'model.pth', saved)
        for ema, network in ((False, reference), (True, averaged)):
            variables = load_variables(path, 'resnet18', ema=ema, **SMALL)[1]
            chex.assert_trees_all_equal(variables, torch_reference.flax_variables(network))
    alone = torch.optim.swa_utils.AveragedModel(averaged).state_dict()
    variables = load_variables(save(tmp_path / 'alone.pth', alone), 'resnet18', ema=True, **SMALL)[1]
    chex.assert_trees_all_equal(variables, torch_reference.flax_variables(averaged))
    with pytest.raises(ConfigError, match='has no averaged weights'):
        load_variables(save(tmp_path / 'plain.pth', reference.state_dict()), 'resnet18', ema=True, **SMALL)


def test_a_pool_that_names_cannot_tell_is_named(tmp_path, caplog):
    """The ResNet-18 of huyvnphan/PyTorch_CIFAR10 has the names and shapes of a network without its pool."""
    caplog.set_level(logging.INFO, 'resnet_jax')
    small = {'stage_sizes': (1, 1, 1, 1), 'num_filters': 4}
    reference = torch_reference.ResNet(torch_reference.BasicBlock, (1, 1, 1, 1), 4)
    load_variables(save(tmp_path / 'model.pth', reference.state_dict()), 'resnet18', **small)
    assert any('whether a max pool follows the stem' in message for message in caplog.messages)
    caplog.clear()
    load_variables(save(tmp_path / 'model.pth', renamed(reference.state_dict(), *KUANGLIU)), 'resnet18', **small)
    assert caplog.messages == []


@pytest.mark.parametrize('name', ['layer9.0.conv1.weight', 'fc2.weight', 'norm.running_mean', 'attention.weight'])
def test_what_may_be_a_layer_is_not_taken_for_a_stray(name, tmp_path):
    tensors = {**small_reference().state_dict(), name: torch.ones(2, 3, 1, 1)}
    with pytest.raises(InputFileError, match='1 unmatched'):
        load_variables(save(tmp_path / 'model.pth', tensors), 'resnet18', **SMALL)


def test_long_names_take_time_in_proportion(tmp_path):
    tensors = {**small_reference().state_dict(), 'layer1.' * 100_000 + 'conv1.weight': torch.ones(1)}
    path = save(tmp_path / 'model.pth', tensors)
    start = time.process_time()
    with pytest.raises(InputFileError, match='1 unmatched'):
        load_variables(path, 'resnet18', **SMALL)
    assert time.process_time() - start < 60  # building all candidates takes most of it


def test_many_names_take_time_in_proportion(tmp_path):
    tensors = {f'layer{i}.{j}.weight': torch.ones(1) for i in range(200) for j in range(250)}
    path = save(tmp_path / 'model.pth', {**tensors, 'conv1.weight': torch.ones(1, 1, 1, 1)})
    start = time.process_time()
    with pytest.raises(InputFileError, match='50000 unmatched'):
        load_variables(path, 'resnet18', **SMALL)
    assert time.process_time() - start < 60


def test_grey_images_need_their_shape(tmp_path):
    tensors = small_reference().state_dict()
    tensors['conv1.weight'] = tensors['conv1.weight'][:, :1].clone()
    path = save(tmp_path / 'model.pth', tensors)
    load_variables(path, 'resnet18', image_shape=(8, 8, 1), **SMALL)
    with pytest.raises(InputFileError, match=r'conv1.weight \[6, 1, 3, 3\], expected \[6, 3, 3, 3\]'):
        load_variables(path, 'resnet18', **SMALL)


def test_what_the_caller_does_wrong_is_a_config_error(tmp_path):
    path = save(tmp_path / 'model.pth', small_reference().state_dict())
    for name, kwargs, text in (
        (None, {}, 'does not say which model'),
        ('resnet', {}, 'unknown model'),
        ('resnet18', {'stem': 'big'}, 'stem must be'),
        ('resnet18', {'path': 1}, "no argument 'path'"),
        ('resnet18', {'image_shape': (2**70, 32, 3)}, 'cannot be built'),
    ):
        with pytest.raises(ConfigError, match=text):
            load_variables(path, name, **kwargs)


def test_files_that_are_none(tmp_path):
    (tmp_path / 'cut.safetensors').write_bytes(save(tmp_path / 'a.safetensors', {'a': torch.ones(9)}).read_bytes()[:-1])
    huge = tmp_path / 'huge.pth'
    with huge.open('wb') as file:
        file.truncate(2**40)  # sparse: takes no space
    for name in ('missing.pth', '.', 'cut.safetensors', 'huge.pth'):
        with pytest.raises(InputFileError) as info:
            load_variables(tmp_path / name, 'resnet18')
        assert str(tmp_path / name) in str(info.value)


def test_our_own_file_needs_no_names(tmp_path):
    path, reference = tmp_path / 'model.safetensors', small_reference()
    variables = torch_reference.flax_variables(reference)
    metadata = {'model': 'resnet18', 'model_kwargs': SMALL, 'image_shape': [32, 32, 3], 'class_names': ['a', 'b']}
    save_safetensors(path, variables, metadata)
    model, again, described = load_variables(path)
    chex.assert_trees_all_equal(again, variables)
    assert described == {**metadata, 'model_kwargs': {**SMALL, 'stage_sizes': [1, 2]}, 'num_classes': 10}
    assert model.num_filters == 6
    with pytest.raises(InputFileError, match='does not fit resnet8'):
        load_variables(path, 'resnet8')


@pytest.mark.parametrize(
    'metadata',
    [
        {},
        {'model': 3, 'model_kwargs': {}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': [], 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'name': 'x'}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'num_classes': 3}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'act': 'os.system'}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'stage_sizes': [10**9]}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'stage_sizes': [1] * 900}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {'num_filters': 10**30}, 'image_shape': [32, 32, 3]},
        {'model': 'resnet18', 'model_kwargs': {}, 'image_shape': [10**9, 1, 1]},
        {'model': 'resnet18', 'model_kwargs': {}, 'image_shape': [9999, 9999, 3]},
        {'model': 'resnet18', 'model_kwargs': {}, 'image_shape': [32, 32, 3], 'mean': 'x'},
        {'model': '../resnet18', 'model_kwargs': {}, 'image_shape': [32, 32, 3]},
    ],
)
def test_hostile_metadata_are_refused(metadata, tmp_path):
    write_safetensors(tmp_path / 'model.safetensors', {'a': np.ones(2, np.float32)}, metadata)
    with pytest.raises(InputFileError) as info:
        load_variables(tmp_path / 'model.safetensors')
    assert str(info.value).isprintable()


def test_it_works_without_torch(tmp_path):
    path = save(tmp_path / 'model.pth', small_reference().state_dict())
    program = (
        "import sys; sys.modules['torch'] = None\n"
        'from resnet_jax.weights import load_variables\n'
        f"print(load_variables({str(path)!r}, 'resnet18', stage_sizes=(1, 2), num_filters=6)[0].num_classes)"
    )
    assert subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True).stdout == '10\n'


@pytest.mark.parametrize(
    ('reference', 'name', 'kwargs', 'shape'),
    [
        (torch_reference.LeNet, 'lenet5_relu', {}, (32, 32, 3)),
        (torch_reference.D2LLeNet, 'lenet5', {'padding': 2}, (28, 28, 1)),
    ],
)
def test_lenet_of_others_computes_the_same(reference, name, kwargs, shape, tmp_path):
    module = torch_reference.randomise(reference())
    path = save(tmp_path / 'model.pth', module.state_dict())
    model, variables, _ = load_variables(path, name, image_shape=shape, **kwargs)
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    logits = model.apply(variables, images, train=False)
    np.testing.assert_allclose(logits, torch_reference.torch_logits(module, images), rtol=1e-4, atol=1e-5)
