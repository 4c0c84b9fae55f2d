import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model, features
from resnet_jax.models.introspection import Layer, layers, table

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_layers_of_a_small_network_by_hand():
    actual = layers(create_model('resnet8', stage_sizes=(1,), num_filters=4), image_size=8, channels=1)
    assert actual == [
        Layer('conv1', 'Conv', (8, 8, 4), 36, 64 * 36),
        Layer('bn1', 'BatchNorm', (8, 8, 4), 8, 0),
        Layer('layer1_0/conv1', 'Conv', (8, 8, 4), 144, 64 * 144),
        Layer('layer1_0/bn1', 'BatchNorm', (8, 8, 4), 8, 0),
        Layer('layer1_0/conv2', 'Conv', (8, 8, 4), 144, 64 * 144),
        Layer('layer1_0/bn2', 'BatchNorm', (8, 8, 4), 8, 0),
        Layer('fc', 'Dense', (10,), 50, 40),
    ]
    lines = table(actual).splitlines()
    assert lines[0].split() == ['layer', 'kind', 'output', 'params', 'multiply-adds']
    assert lines[4].split() == ['layer1_0/conv1', 'Conv', '8x8x4', '144', '9,216']
    assert lines[-1].split() == ['total', '398', '20,776']


@pytest.mark.parametrize('name', ['alexnet', 'seresnet50', 'resnext29_4x64d', 'd2l_resnext26'])
def test_layers_have_all_parameters(name):
    model = create_model(name)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)['params']
    assert sum(layer.params for layer in layers(model)) == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def test_features():
    model = create_model('resnet18', 7, stage_sizes=(1, 1, 1), num_filters=4, stem='imagenet')
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)
    assert set(variables) == {'params', 'batch_stats'}
    maps = jax.jit(functools.partial(features, model))(variables, images)
    assert {name: array.shape for name, array in maps.items()} == {
        'stem': (2, 8, 8, 4),
        'stage1': (2, 8, 8, 4),
        'stage2': (2, 4, 4, 8),
        'stage3': (2, 2, 2, 16),
        'pooled': (2, 16),
        'logits': (2, 7),
    }
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    chex.assert_trees_all_close(maps['logits'], logits, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(maps['pooled'], maps['stage3'].mean((1, 2)), rtol=1e-5, atol=1e-5)
    fc = variables['params']['fc']
    chex.assert_trees_all_close(maps['logits'], maps['pooled'] @ fc['kernel'] + fc['bias'][None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['lenet5', 'alexnet', 'wrn_16_4', 'd2l_resnet18'])
def test_features_of_other_families(name):
    model = create_model(name)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    maps = jax.eval_shape(functools.partial(features, model), variables, images)
    assert {'stage1', 'stage2', 'pooled', 'logits'} <= set(maps)
    assert maps['pooled'].ndim == 2


def test_features_of_a_foreign_module():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2)(x)

    variables = Linear().init(jax.random.key(0), jnp.zeros((1, 3)), train=False)
    with pytest.raises(ConfigError, match='Linear keeps no features'):
        features(Linear(), variables, jnp.zeros((1, 3)))


@pytest.mark.parametrize(
    ('name', 'kwargs', 'size', 'channels', 'total'),
    [
        ('resnet50', {'stem': 'imagenet', 'num_classes': 1000}, 224, 3, ['25,557,032', '4,089,184,256']),
        ('lenet5', {}, 32, 1, ['61,706', '416,520']),
    ],
)
def test_totals_of_the_table(name, kwargs, size, channels, total):
    lines = table(layers(create_model(name, **kwargs), size, channels)).splitlines()
    assert lines[-1].split() == ['total', *total]


def test_a_line_of_the_table():
    lines = table(layers(create_model('resnet50', stem='imagenet'), 224)).splitlines()
    assert lines[2].split() == ['conv1', 'Conv', '112x112x64', '9,408', '118,013,952']


def test_images_that_are_too_small():
    with pytest.raises(ConfigError, match='8x8 pixels are too small'):
        layers(create_model('alexnet'), 8)
