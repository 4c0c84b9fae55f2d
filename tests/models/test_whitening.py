import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.models.whitening import LAYER, whitening_conv, whitening_kernel


def photographs(n=40, size=12, channels=3):
    """Neighbouring pixels and channels alike, as in photographs; about mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, size + 2, size + 2, channels)) + rng.normal(size=(n, size + 2, size + 2, 1))
    images = images[:, :-2, :-2] + 2 * images[:, 1:-1, 1:-1] + images[:, 2:, 2:]
    return (images / images.std()).astype(np.float32)


def whitened(images, kernel):
    """What PyTorch's convolution makes of the images: `[pixels, outputs]`."""
    out = torch.nn.functional.conv2d(torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(kernel.transpose(3, 2, 0, 1)))
    return out.numpy().transpose(0, 2, 3, 1).reshape(-1, kernel.shape[3])


def second_moments(values):
    return values.T.astype(np.float64) @ values / len(values)


@pytest.mark.parametrize('channels', [1, 3])
def test_whitened_patches_have_the_identity_for_second_moments(channels):
    images = photographs(channels=channels)
    before = second_moments(np.lib.stride_tricks.sliding_window_view(images, (2, 2), (1, 2)).reshape(-1, 4 * channels))
    assert np.abs(before - np.eye(len(before))).max() > 0.3
    kernel = whitening_kernel(images, epsilon=0.0)
    assert kernel.shape == (2, 2, channels, 8 * channels) and kernel.dtype == np.float32
    out = whitened(images, kernel)
    half = out[:, : 4 * channels]
    np.testing.assert_allclose(second_moments(half), np.eye(4 * channels), atol=1e-5)
    np.testing.assert_array_equal(out[:, 4 * channels :], -half)


def test_epsilon_holds_back_what_hardly_varies():
    """Output k then has the second moment v / (v + epsilon) where v is that of its direction in the patches."""
    images, epsilon = photographs(), 0.05
    norms = np.square(whitening_kernel(images, 0.0)[..., :12].astype(np.float64)).sum((0, 1, 2))
    moments = second_moments(whitened(images, whitening_kernel(images, epsilon))[:, :12])
    np.testing.assert_allclose(moments, np.diag(1 / (1 + epsilon * norms)), atol=1e-5)
    assert moments[-1, -1] < 0.9 and (np.diff(np.diag(moments)) <= 1e-6).all()  # in order of falling variance


def test_it_is_a_function_of_the_images_alone():
    images = photographs(1100, 4)  # more than are in memory at a time
    kernel = whitening_kernel(images)
    np.testing.assert_array_equal(kernel, whitening_kernel(images.copy()))
    # The order matters to rounding only, and the sign is decided: the eigenvectors of -images are the same.
    np.testing.assert_allclose(whitening_kernel(-images[::-1]), kernel, rtol=1e-4, atol=1e-5)
    half = kernel[..., :12].reshape(12, 12)
    assert (half[np.abs(half).argmax(0), np.arange(12)] > 0).all()


@pytest.mark.parametrize('shape', [(0, 8, 8, 3), (5, 1, 8, 3), (5, 8, 8)])
def test_images_without_a_patch(shape):
    with pytest.raises(ConfigError, match=r'at least 2x2 pixels, not \('):
        whitening_kernel(np.zeros(shape, np.float32))


class Whitening(nn.Module):
    @nn.compact
    def __call__(self, images):
        return whitening_conv(3)(images)


def test_before_it_is_computed_it_is_that_of_white_images():
    white = np.random.default_rng(0).normal(size=(2000, 6, 6, 3)).astype(np.float32)
    layer = Whitening()
    variables = layer.init(jax.random.key(0), white[:1])
    moments = second_moments(np.asarray(layer.apply(variables, white)).reshape(-1, 24)[:, :12])
    np.testing.assert_allclose(moments, np.eye(12), atol=0.03)


def test_the_kernel_gets_no_gradient_and_the_bias_does():
    layer, images = Whitening(), jnp.asarray(photographs(2))
    variables = layer.init(jax.random.key(0), images)
    gradient = jax.grad(lambda params: jnp.square(layer.apply({'params': params}, images)).sum())(variables['params'])
    assert not gradient[LAYER]['kernel'].any() and gradient[LAYER]['bias'].any()


def test_the_stem_of_a_resnet():
    """The rest of the network sees what the layer gives, and has 24 channels for three."""
    images = jnp.asarray(photographs(2))
    model = create_model('resnet8', stem='whitening', stage_sizes=(1,), num_filters=4)
    assert model.whitening and not create_model('resnet8').whitening
    variables = model.init(jax.random.key(0), images, train=False)
    assert variables['params']['conv1']['kernel'].shape == (3, 3, 24, 4)
    params = dict(variables['params'])
    seen = jax.nn.relu(Whitening().apply({'params': {LAYER: params.pop(LAYER)}}, images))
    rest = create_model('resnet8', stage_sizes=(1,), num_filters=4)
    expected = rest.apply({**variables, 'params': params}, seen, train=False)
    chex.assert_trees_all_close(model.apply(variables, images, train=False), expected, rtol=1e-5)
    with pytest.raises(ConfigError, match='1x8 pixels are too small'):
        model.init(jax.random.key(0), jnp.zeros((1, 1, 8, 3)), train=False)
