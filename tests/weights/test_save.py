import functools

import chex
import jax
import numpy as np
import pytest
import torch
import torch_reference
from safetensors import safe_open
from sampling import sample

from resnet_jax.errors import ConfigError, ResourceError
from resnet_jax.models import available_models, create_model
from resnet_jax.weights import load_variables, save_safetensors, save_torch
from resnet_jax.weights.match import model_shapes
from resnet_jax.weights.names import default_naming, torch_name, unflatten

SMALL = {'stage_sizes': (1, 2), 'num_filters': 6}
SMALL_16 = {'stage_sizes': (1, 2), 'num_filters': 16}
SMALL_D2L = {'stage_sizes': (2, 1, 1, 1), 'num_filters': 4}


def random_variables(model):
    """Random bits of finite float32, so that every bit counts."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    tree = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    random = np.random.default_rng(0)

    def bits(leaf):
        values = random.integers(0, 2**32, leaf.shape, np.uint32).view(np.float32)
        return np.where(np.isfinite(values), values, np.float32(-0.0))

    return {'params': {}, 'batch_stats': {}, **jax.tree.map(bits, tree)}


def assert_same_bits(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == np.float32 and x.tobytes() == y.tobytes()


@pytest.mark.parametrize(
    ('name', 'kwargs', 'naming'),
    [
        *(('resnet50', SMALL, naming) for naming in ('torchvision', 'kuangliu')),
        ('resnet8', {}, None),
        *(('d2l_resnet18', SMALL_D2L, naming) for naming in (None, 'd2l_sequential')),
        ('alexnet', {}, None),
    ],
)
def test_round_trip_through_torch_is_bitwise(name, kwargs, naming, tmp_path):
    model = create_model(name, 7, **kwargs)
    variables = random_variables(model)
    save_torch(tmp_path / 'model.pth', model, variables, naming)
    loaded, arrays, _ = load_variables(tmp_path / 'model.pth', name, **kwargs)
    assert loaded == model
    assert_same_bits(arrays, variables)
    state_dict = torch.load(tmp_path / 'model.pth', weights_only=True)
    torch.save(state_dict, tmp_path / 'again.pth')  # and back from torch's own hand
    assert_same_bits(load_variables(tmp_path / 'again.pth', name, **kwargs)[1], variables)


@pytest.mark.parametrize('transposed', [False, True])
def test_round_trip_through_safetensors_is_bitwise(transposed, tmp_path):
    variables = random_variables(create_model('resnet18', 7, **SMALL))
    written = jax.tree.map(lambda x: np.asfortranarray(x) if transposed else x, variables)
    metadata = {'model': 'resnet18', 'model_kwargs': SMALL, 'image_shape': (32, 32, 3), 'mean': [0.5]}
    save_safetensors(tmp_path / 'model.safetensors', written, metadata)
    assert_same_bits(load_variables(tmp_path / 'model.safetensors')[1], variables)
    with safe_open(tmp_path / 'model.safetensors', 'numpy') as file:
        assert file.metadata()['model'] == '"resnet18"' and file.metadata()['mean'] == '[0.5]'
        assert 'params/layer1_0/conv1/kernel' in file.keys()  # noqa: SIM118


@pytest.mark.parametrize(
    ('name', 'kwargs', 'make'),
    [
        ('resnet18', SMALL, functools.partial(torch_reference.ResNet, torch_reference.BasicBlock, (1, 2), 6)),
        ('resnet50', SMALL, functools.partial(torch_reference.ResNet, torch_reference.Bottleneck, (1, 2), 6)),
        (
            'resnet18',
            {**SMALL, 'stem': 'imagenet'},
            functools.partial(torch_reference.ResNet, torch_reference.BasicBlock, (1, 2), 6, 'imagenet'),
        ),
        ('d2l_resnet18', SMALL_D2L, functools.partial(torch_reference.D2LResNet, ((2, 4), (1, 8), (1, 16), (1, 32)))),
        (
            'd2l_resnext26',
            SMALL_16,
            functools.partial(torch_reference.D2LResNet, ((1, 16), (2, 32)), block=torch_reference.D2LResNeXtBlock),
        ),
        (
            'd2l_resnet18_3conv',
            SMALL_16,
            functools.partial(torch_reference.D2LResNet, ((1, 16), (2, 32)), block=torch_reference.ThreeConvResidual),
        ),
        (
            'resnet50d',
            SMALL,
            functools.partial(torch_reference.ResNet, torch_reference.Bottleneck, (1, 2), 6, 'deep', 'average'),
        ),
        (
            'seresnet18',
            SMALL_16,
            functools.partial(torch_reference.ResNet, torch_reference.BasicBlock, (1, 2), 16, 'imagenet', se=True),
        ),
    ],
)
def test_torch_loads_it_strictly_and_computes_the_same(name, kwargs, make, tmp_path):
    model, source = create_model(name, **kwargs), torch_reference.randomise(make())
    variables = torch_reference.flax_variables(source)
    save_torch(tmp_path / 'model.pth', model, variables)
    reference = make()
    reference.load_state_dict(torch.load(tmp_path / 'model.pth', weights_only=True), strict=True)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(torch_reference.torch_logits(reference, images), torch_reference.torch_logits(source, images))


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path, monkeypatch):
    model = create_model('resnet8', **SMALL)
    variables = random_variables(model)
    path = tmp_path / 'new' / 'folder' / 'model.pth'
    save_torch(path, model, variables)
    before = path.read_bytes()
    monkeypatch.setattr('os.fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(ResourceError, match='No space left'):
        save_torch(path, model, random_variables(create_model('resnet8', 3, **SMALL)))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ['model.pth']


def test_what_cannot_be_saved_is_refused(tmp_path):
    model = create_model('resnet8', **SMALL)
    with pytest.raises(ConfigError, match='naming must be one of'):
        save_torch(tmp_path / 'x.pth', model, random_variables(model), 'theirs')
    with pytest.raises(ConfigError, match='conv1/kernel is float16; expected float32'):
        save_torch(tmp_path / 'x.pth', model, unflatten({'params/conv1/kernel': np.ones(3, np.float16)}))
    with pytest.raises(ConfigError, match='has no model, model_kwargs'):
        save_safetensors(tmp_path / 'x.safetensors', random_variables(model), {'image_shape': [1, 1, 1]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', sample([name for name in available_models() if name not in ('resnet1001', 'resnet1202')], 4))
def test_a_default_naming_gives_every_array_a_name_of_its_own(name):
    model = create_model(name)
    shapes = model_shapes(model, (64, 64, 3))
    assert len({torch_name(ours, default_naming(model)) for ours in shapes}) == len(shapes)


def test_a_naming_for_other_blocks_is_refused(tmp_path):
    model = create_model('d2l_resnet18_3conv', **SMALL_D2L)
    with pytest.raises(ConfigError, match=r'two arrays would be net.b3.0.conv3.bias; expected d2l_3conv'):
        save_torch(tmp_path / 'x.pth', model, random_variables(model), 'd2l')
    assert not list(tmp_path.iterdir())
