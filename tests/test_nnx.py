import functools
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from installed import quick_to_compile
from sampling import sample
from small_models import CASES, image_size, small_kwargs

import resnet_jax.nnx
from resnet_jax import Classifier, create_model, load
from resnet_jax.classifier import Origin
from resnet_jax.errors import ConfigError

pytestmark = pytest.mark.usefixtures('quick_compilation')
ROOT = Path(__file__).resolve().parents[1]
SMALL = {'stage_sizes': (1, 1), 'num_filters': 4, 'num_classes': 3}


def images_for(shape, batch=4):
    return np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)


@pytest.mark.parametrize('name', CASES)
def test_logits_gradients_and_statistics_are_those_of_linen(name):
    shape = (image_size(name), image_size(name), 3)
    linen, images = create_model(name, **small_kwargs(name)), images_for(shape)
    network = resnet_jax.nnx.create_model(name, rngs=nnx.Rngs(0), image_shape=shape, **small_kwargs(name))
    variables = jax.jit(functools.partial(linen.init, train=False))(nnx.Rngs(0).params(), images[:1])
    variables = {'batch_stats': {}, **variables}
    # But for rounding: XLA fuses the two programs in different ways.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, resnet_jax.nnx.to_linen(network)[1], variables)
    variables = jax.tree.map(np.asarray, resnet_jax.nnx.to_linen(network)[1])

    def linen_loss(params):
        rngs = {'dropout': network.dropout_rng.key[...]} if network.dropout_rng else {}
        rngs = {name: jax.random.fold_in(key, 0) for name, key in rngs.items()}  # the first of the stream
        inputs = {**variables, 'params': params}
        logits, updated = linen.apply(inputs, images, train=True, mutable=['batch_stats'], rngs=rngs)
        return jnp.sin(logits).sum(), (logits, {'batch_stats': {}, **updated}['batch_stats'])

    (_, (expected, statistics)), expected_gradients = jax.jit(jax.value_and_grad(linen_loss, has_aux=True))(variables['params'])
    expected_evaluation = jax.jit(functools.partial(linen.apply, train=False))(variables, images)

    @nnx.jit
    def step(network):
        def loss(network):
            logits = network(images)
            return jnp.sin(logits).sum(), logits

        return nnx.value_and_grad(loss, has_aux=True)(network)

    network.eval()
    np.testing.assert_allclose(nnx.jit(lambda network: network(images))(network), expected_evaluation, rtol=1e-5, atol=1e-6)
    network.train()
    (_, logits), gradients = step(network)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(logits, expected)
    jax.tree.map(close, nnx.to_pure_dict(gradients), expected_gradients)
    jax.tree.map(close, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)), statistics)


def test_parameters_have_the_names_of_linen():
    network = resnet_jax.nnx.create_model('resnet18', rngs=nnx.Rngs(0), **SMALL)
    assert isinstance(network.layer2_0.conv1, nnx.Conv) and isinstance(network.fc, nnx.Linear)
    assert network.layer2_0.downsample_conv.kernel.shape == (1, 1, 4, 8)
    paths = {'/'.join(path) for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))}
    assert {'conv1/kernel', 'layer1_0/bn2/scale', 'layer2_0/downsample_bn/bias', 'fc/kernel'} <= paths


def test_a_head_is_replaced_by_assignment_and_trained_alone():
    network = resnet_jax.nnx.create_model('resnet18', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
    network.fc = nnx.Linear(8, 5, rngs=nnx.Rngs(1))
    network.eval()  # BatchNorm is frozen
    head = nnx.All(nnx.Param, nnx.PathContains('fc'))
    optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=head)
    before = resnet_jax.nnx.to_linen(network)[1]
    before = jax.tree.map(np.asarray, before)
    images, labels = images_for((8, 8, 3)), np.array([0, 1, 2, 4])

    @nnx.jit
    def step(network, optimizer):
        def loss(network):
            return optax.softmax_cross_entropy_with_integer_labels(network(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, head))(network)
        optimizer.update(network, gradients)
        return value

    losses = [float(step(network, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    linen, after = resnet_jax.nnx.to_linen(network)
    assert linen.num_classes == 5
    np.testing.assert_allclose(linen.apply(after, images, train=False), network(images), rtol=1e-5, atol=1e-6)
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after, before)
    assert changed['params'].pop('fc') == {'bias': True, 'kernel': True} and not any(jax.tree.leaves(changed))


def test_weights_files_are_those_of_linen(tmp_path):
    network = resnet_jax.nnx.create_model('resnet18', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
    network(images_for((8, 8, 3)))  # changes the statistics
    linen, variables = resnet_jax.nnx.to_linen(network)
    origin = Origin('resnet18', {'stage_sizes': [1, 1], 'num_filters': 4})
    Classifier(linen, variables, (8, 8, 3), ('a', 'b', 'c'), None, None, origin=origin).save(tmp_path / 'a.safetensors')
    loaded = load(tmp_path / 'a.safetensors')
    again = resnet_jax.nnx.from_linen(loaded.model, loaded.variables, image_shape=loaded.image_shape)
    network.eval(), again.eval()
    np.testing.assert_array_equal(again(images_for((8, 8, 3))), network(images_for((8, 8, 3))))


def test_dropout_is_on_in_training_and_has_a_stream_of_its_own():
    network = resnet_jax.nnx.create_model('wrn_16_4', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), dropout=0.5, **SMALL)
    images = images_for((8, 8, 3))
    assert (np.asarray(network(images)) != network(images)).any()
    network.eval()
    np.testing.assert_array_equal(network(images), network(images))
    assert resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), **SMALL).dropout_rng is None
    linen = create_model('resnet18', stochastic_depth=0.2, **SMALL)
    variables = linen.init(jax.random.key(0), images, train=False)
    with pytest.raises(ConfigError, match='expected rngs='):
        resnet_jax.nnx.from_linen(linen, variables)


def test_it_goes_through_split_merge_and_vmap():
    network = resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
    network.eval()
    images = images_for((8, 8, 3))
    graph, state = nnx.split(network)
    np.testing.assert_array_equal(nnx.merge(graph, state)(images), network(images))
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), state)
    logits = jax.vmap(lambda state: nnx.merge(graph, state)(images))(several)
    np.testing.assert_allclose(logits[0], network(images), rtol=1e-4, atol=1e-5)


class Own(nn.Module):
    """With a layer and a parameter that stay linen's."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.LayerNorm()(nn.BatchNorm(not train)(x)) * self.param('gain', nn.initializers.ones, (4,))[None, None, None]
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def test_an_own_network():
    images = images_for((8, 8, 3))
    with jax.numpy_rank_promotion('allow'):
        variables = Own().init(jax.random.key(0), images, train=False)
        network = resnet_jax.nnx.from_linen(Own(), variables, image_shape=(8, 8, 3))
        expected, updated = Own().apply(variables, images, train=True, mutable=['batch_stats'])
        np.testing.assert_allclose(network(images), expected, rtol=1e-5, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, resnet_jax.nnx.to_linen(network)[1]['batch_stats'], updated['batch_stats'])
        assert isinstance(network.gain, nnx.Param) and network.LayerNorm_0.scale.shape == (4,)
        variables['cache'] = {'last': jnp.zeros(3)}
        with pytest.raises(ConfigError, match='other variables, cache; expected parameters'):
            resnet_jax.nnx.from_linen(Own(), variables, image_shape=(8, 8, 3))


def test_what_does_not_fit_is_one_line():
    linen = resnet_jax.create_model('resnet8', 3)
    variables = linen.init(jax.random.key(0), images_for((8, 8, 3)), train=False)
    for shape in ((32, 32), (0, 32, 3), (32, 32, 3.0), 'abc', None):
        with pytest.raises(ConfigError, match=r'image_shape is .*three integers from 1'):
            resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), image_shape=shape)
        with pytest.raises(ConfigError, match=r'image_shape is .*three integers from 1'):
            resnet_jax.nnx.from_linen(linen, variables, image_shape=shape)
    for given, text in (
        ({}, 'batch_stats/bn1/mean is missing'),
        ({'params': variables['params']}, 'batch_stats/bn1/mean is missing'),
        (
            {**variables, 'params': {**variables['params'], 'extra': {'bias': jnp.zeros(3)}}},
            r'extra/bias is \(3,\); expected nothing',
        ),
        (None, 'not ResNet and NoneType'),
    ):
        with pytest.raises(ConfigError, match=text):
            resnet_jax.nnx.from_linen(linen, given)
    with pytest.raises(ConfigError, match=r'conv1/kernel is \(3, 3, 3, 16\); expected \(3, 3, 1, 16\)'):
        resnet_jax.nnx.from_linen(linen, variables, image_shape=(32, 32, 1))


def test_a_layer_that_linen_does_not_have_is_named():
    network = resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
    network.bn1 = nnx.GroupNorm(4, 2, use_bias=False, rngs=nnx.Rngs(0))
    with (
        jax.numpy_rank_promotion('allow'),
        pytest.raises(ConfigError, match='batch_stats/bn1/mean is missing'),
    ):
        resnet_jax.nnx.to_linen(network)


class Tenfold(nnx.Linear):
    def __call__(self, inputs):
        return 10 * super().__call__(inputs)


def test_a_layer_that_computes_something_else_is_named():
    rngs = nnx.Rngs(0)
    head = nnx.Sequential(nnx.Linear(8, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 3, rngs=rngs))
    for place, layer, text in (
        ('bn1', nnx.BatchNorm(4, epsilon=0.1, rngs=rngs), r'bn1 has epsilon=0\.1, expected 1e-05'),
        ('bn1', nnx.BatchNorm(4, momentum=0.5, epsilon=1e-5, rngs=rngs), r'bn1 has momentum=0\.5'),
        ('fc', Tenfold(8, 3, rngs=rngs), 'fc is a Tenfold, expected a Linear'),
        ('fc', head, r'params/fc/.* expected nothing|params/fc/.* is missing'),
    ):
        network = resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
        setattr(network, place, layer)
        with jax.numpy_rank_promotion('allow'), pytest.raises(ConfigError, match=text):
            resnet_jax.nnx.to_linen(network)
    network = resnet_jax.nnx.create_model('resnet8', rngs=nnx.Rngs(0), image_shape=(8, 8, 3), **SMALL)
    network.layer1_0.conv1 = nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs)  # 'SAME' is what the linen one does
    images = images_for((8, 8, 3))
    linen, variables = resnet_jax.nnx.to_linen(network)
    network.eval()
    np.testing.assert_allclose(linen.apply(variables, images, train=False), network(images), rtol=1e-5, atol=1e-6)
    network.layer1_0.conv1 = nnx.Conv(4, 4, (3, 3), kernel_dilation=2, use_bias=False, rngs=rngs)
    with pytest.raises(ConfigError, match=r'layer1_0/conv1 has padding=|layer1_0/conv1 has kernel_dilation=\(2, 2\)'):
        resnet_jax.nnx.to_linen(network)


def test_a_view_is_in_evaluation():
    network = resnet_jax.nnx.create_model('wrn_16_4', rngs=nnx.Rngs(0), dropout=0.5, image_shape=(8, 8, 3), **SMALL)
    view = nnx.view(network, deterministic=True, use_running_average=True)
    images = images_for((8, 8, 3))
    np.testing.assert_array_equal(view(images), view(images))
    assert not network.deterministic


@pytest.mark.parametrize(
    ('rngs', 'text'),
    [
        (0, 'rngs has no stream for params'),
        (nnx.Rngs(dropout=0), 'rngs has no stream for params'),
        (nnx.Rngs(params=0), 'rngs has no stream for dropout'),
    ],
)
def test_a_missing_stream_is_named(rngs, text):
    with pytest.raises(ConfigError, match=text):
        resnet_jax.nnx.create_model('wrn_16_4', rngs=rngs, dropout=0.5, image_shape=(8, 8, 3), **SMALL)


@pytest.mark.parametrize('name', sample(['train_nnx', 'train_linen'], 2))
def test_examples(name):
    command = [sys.executable, ROOT / 'examples' / f'{name}.py']
    done = subprocess.run(command, env=quick_to_compile(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r'test accuracy ([\d.]+)%', done.stdout)[-1]) > 90
