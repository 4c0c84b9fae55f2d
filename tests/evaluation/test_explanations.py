"""Explanations beside Captum's (PyTorch) on the same weights, and what they must satisfy."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
import torch_reference as T
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from tiny import Linear

from resnet_jax import Classifier, create_model
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.explanations import (
    class_activation_maps,
    first_filters,
    grad_cam,
    input_gradients,
    integrated_gradients,
    map_layers,
    path_integral,
)

pytestmark = pytest.mark.usefixtures('quick_compilation')

MEAN, STD, SHAPE = (0.4, 0.5, 0.45), (0.2, 0.25, 0.3), (20, 16, 3)
CLASSES = np.arange(6)


@pytest.fixture(scope='module')
def pair():
    """A classifier and the same network in PyTorch, where layer2.1 is our layer2_1."""
    torch.manual_seed(0)
    reference = T.randomise(T.ResNet(T.BasicBlock, (1, 2), 8, 'cifar', 'identity', num_classes=7)).eval()
    model = create_model('resnet20', 7, stage_sizes=(1, 2), num_filters=8)
    return Classifier(model, T.flax_variables(reference), SHAPE, tuple('abcdefg'), MEAN, STD), reference


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)


def tensor(images):
    inputs = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(inputs.astype(np.float32).transpose(0, 3, 1, 2), requires_grad=True)


def ours(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ('layer', 'theirs'), [(None, 'layer2.1'), ('layer2_1', 'layer2.1'), ('layer1_0/conv2', 'layer1.0.conv2')]
)
def test_grad_cam_is_captums(pair, images, layer, theirs):
    classifier, reference = pair
    maps = LayerGradCam(reference, reference.get_submodule(theirs)).attribute(
        tensor(images), torch.tensor(CLASSES), relu_attributions=True
    )
    expected = ours(LayerAttribution.interpolate(maps, SHAPE[:2], 'bilinear'))[..., 0]
    expected = expected - expected.min((1, 2), keepdims=True)
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-12)  # for one of the images nothing speaks
    actual = grad_cam(classifier, images, CLASSES, layer)
    assert actual.shape == (6, 20, 16) and actual.dtype == np.float32 and actual.std() > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_gradients_are_captums(pair, images):
    classifier, reference = pair
    theirs = Saliency(reference).attribute(tensor(images), torch.tensor(CLASSES), abs=False)
    expected = ours(theirs) / np.array(STD)  # of what is normalised, to pixels
    np.testing.assert_allclose(
        input_gradients(classifier, images, CLASSES), expected, atol=1e-6 * np.abs(expected).max() + 1e-7
    )


def test_integrated_gradients_are_captums_and_complete(pair, images):
    classifier, reference = pair
    actual = integrated_gradients(classifier, images, CLASSES)
    black = tensor(np.zeros_like(images))
    theirs = IntegratedGradients(reference).attribute(tensor(images), black, torch.tensor(CLASSES), n_steps=50)
    np.testing.assert_allclose(actual, ours(theirs), atol=3e-4 * np.abs(actual).max())  # rounding decides over a ReLU
    # Sundararajan et al., section 3: they sum to the logit less that of the baseline.
    grey = np.full(SHAPE, 128, np.uint8)
    actual = integrated_gradients(classifier, images, CLASSES, baseline=grey, steps=300)
    logits, base = classifier.logits(images)[CLASSES, CLASSES], classifier.logits(grey[None])[0, CLASSES]
    np.testing.assert_allclose(actual.sum((1, 2, 3)), logits - base, atol=2e-3 * np.abs(logits - base).max())


def test_of_a_linear_network_integrated_gradients_are_exact(images):
    model = Linear()
    variables = model.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)
    classifier = Classifier(model, variables, SHAPE, tuple('abc'), MEAN, STD)
    actual = integrated_gradients(classifier, images, 1, steps=1)
    kernel = np.asarray(variables['params']['fc']['kernel'])[:, 1].reshape(SHAPE)
    np.testing.assert_allclose(actual, images / 255 / np.array(STD) * kernel, rtol=1e-4, atol=1e-5)
    assert first_filters(classifier) is None
    with pytest.raises(ConfigError, match='no layer with maps'):
        grad_cam(classifier, images)


@pytest.mark.slow
def test_by_default_the_predicted_class_is_explained_in_batches_of_any_size(pair, images):
    classifier, _ = pair
    predicted = classifier.logits(images).argmax(1)
    whole = grad_cam(classifier, images, predicted)
    np.testing.assert_allclose(grad_cam(classifier, images, batch_size=4), whole, atol=1e-5)
    assert grad_cam(classifier, images[:0]).shape == (0, 20, 16)
    of_path = functools.partial(integrated_gradients, classifier, images, steps=3)
    np.testing.assert_allclose(of_path(), of_path(class_index=predicted), atol=1e-6)


def test_the_pure_functions_can_be_jitted_and_mapped(pair, images):
    classifier, _ = pair
    inputs, classes = ours(tensor(images)), CLASSES.astype(np.int32)
    cam = functools.partial(class_activation_maps, classifier.model, classifier.variables, layer='layer2_1')
    whole = jax.jit(cam)(inputs, classes)
    np.testing.assert_allclose(whole, grad_cam(classifier, images, CLASSES), atol=1e-5)
    one = jax.jit(jax.vmap(lambda x, i: cam(x[None], i[None])[0]))(inputs, classes)
    np.testing.assert_allclose(one, whole, atol=1e-5)
    shape = jax.eval_shape(
        functools.partial(path_integral, classifier.model, classifier.variables, steps=2), inputs, classes, inputs[0]
    )
    assert shape.shape == inputs.shape


def test_nothing_speaks_for_a_class_that_nothing_speaks_for(pair, images):
    """With a head of zeros every gradient is 0."""
    classifier, _ = pair
    params = {**classifier.variables['params'], 'fc': {'kernel': np.zeros((16, 7)), 'bias': np.zeros(7)}}
    blind = Classifier(classifier.model, {**classifier.variables, 'params': params}, SHAPE, tuple('abcdefg'), MEAN, STD)
    np.testing.assert_array_equal(grad_cam(blind, images), 0)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(5, (3, 3), (2, 2), dtype='bfloat16', name='second')(x))


class Own(nn.Module):
    """A network of one's own, of modules within modules; bfloat16."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3), dtype='bfloat16', name='first')(images)
        x = Inner(name='inner')(x)
        return nn.Dense(self.num_classes)(x.mean((1, 2)).astype('float32'))


def test_any_flax_module_is_explained(images):
    model = Own()
    variables = model.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)
    classifier = Classifier(model, variables, SHAPE, tuple('abc'), None, None)
    assert map_layers(classifier) == {'first': (20, 16, 4), 'inner/second': (10, 8, 5), 'inner': (10, 8, 5)}
    actual = grad_cam(classifier, images)
    assert actual.shape == (6, 20, 16) and actual.max() == pytest.approx(1) and actual.min() == 0
    filters = first_filters(classifier)
    np.testing.assert_array_equal(filters, np.moveaxis(variables['params']['first']['kernel'], 3, 0))


def test_bad_input_is_said(pair, images):
    classifier, _ = pair
    with pytest.raises(ConfigError, match="no layer 'layer2_9' with maps; did you mean 'layer2_"):
        grad_cam(classifier, images, layer='layer2_9')
    for wrong in (7, -1, [1, 2], 0.5):
        with pytest.raises(ConfigError, match=r'class_index is .*expected integers from 0 to 6'):
            grad_cam(classifier, images, wrong)
    with pytest.raises(ConfigError, match='the baseline is uint8'):
        integrated_gradients(classifier, images, baseline=images)
    with pytest.raises(ConfigError, match='steps'):
        integrated_gradients(classifier, images, steps=0)
    with pytest.raises(ConfigError, match='an ensemble'):
        grad_cam(Classifier.ensemble([classifier, classifier]), images)
