import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch_speedrun import Muon

from resnet_jax.training.muon import muon, orthogonalize, renormalize

pytestmark = pytest.mark.usefixtures('quick_compilation')

SHAPES = [(3, 3, 4, 8), (3, 3, 2, 40), (1, 1, 6, 6), (2, 2, 3, 1)]  # as matrices 36x8, 18x40, 6x6 and 12x1


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direction(gradient, steps):
    """The first update for a rate of 1, without the change of the kernel's norm."""
    kernel = jnp.asarray(normal(gradient.shape, 9))
    kernel *= jnp.sqrt(kernel.shape[-1]) / jnp.linalg.norm(kernel)
    tx = muon(lambda step: 1.0, 0.6, True, steps)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(kernel), kernel)
    return -np.asarray(updates, np.float64).reshape(-1, gradient.shape[-1])


@pytest.mark.parametrize('steps', [3, 5])
@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e4])
def test_updates_are_orthogonal_up_to_the_coefficients(scale, steps):
    """Singular values between 0.68 and 1.21, whatever the gradient's size: rows or columns off orthogonality by 0.54."""
    for shape in SHAPES[:3]:
        update = direction(scale * normal(shape), steps)
        values = np.linalg.svd(update, compute_uv=False)
        assert values.min() > 0.68 and values.max() < 1.21, shape
        gram = update.T @ update if len(update) >= shape[-1] else update @ update.T
        assert np.linalg.norm(gram - np.eye(len(gram)), 2) < 0.54


@pytest.mark.parametrize('shape', SHAPES)
def test_singular_vectors_stay_and_singular_values_follow_the_quintic(shape):
    gradient = normal(shape)
    u, values, v = np.linalg.svd(gradient.reshape(-1, shape[-1]).astype(np.float64), full_matrices=False)
    values /= np.linalg.norm(values)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(direction(gradient, 3), u * values @ v, atol=2e-5)


def test_small_singular_values_grow_as_documented():
    """0.018 of the Frobenius norm is enough for three iterations, 0.0015 for five."""
    for steps, smallest in ((3, 0.018), (5, 0.0015)):
        matrix = np.diag([1.0, smallest, smallest / 4]).astype(np.float32).reshape(1, 1, 3, 3)
        values = np.diag(direction(matrix / np.linalg.norm(matrix), steps))
        assert 0.675 < values[1] < 1.21 and values[2] < 0.4


@pytest.mark.parametrize('nesterov', [True, False])
def test_ten_steps_as_torch(nesterov):
    kernels = [normal(shape, seed) for seed, shape in enumerate(SHAPES)]
    ours, tx = [jnp.asarray(kernel) for kernel in kernels], muon(lambda step: 0.3 - 0.02 * step, 0.6, nesterov, 3)
    state, update = tx.init(ours), jax.jit(tx.update)
    theirs = [torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True) for kernel in kernels]
    reference = Muon(theirs, 0.3, 0.6, nesterov, 3)
    for step in range(10):
        gradients = [normal(shape, 100 * step + seed) for seed, shape in enumerate(SHAPES)]
        updates, state = update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        for kernel, gradient in zip(theirs, gradients, strict=True):
            kernel.grad = torch.tensor(gradient.transpose(3, 2, 0, 1))
        reference.param_groups[0]['lr'] = 0.3 - 0.02 * step
        reference.step()
        for kernel, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(kernel, expected.detach().numpy().transpose(2, 3, 1, 0), atol=1e-5)


def test_renormalised_kernels_have_the_norm_of_as_many_unit_outputs():
    kernels = {'a': jnp.asarray(5 * normal((3, 3, 4, 9))), 'b': jnp.asarray(1e-3 * normal((1, 1, 2, 16)))}
    updates, _ = renormalize().update(jax.tree.map(jnp.zeros_like, kernels), optax.EmptyState(), kernels)
    new = optax.apply_updates(kernels, updates)
    assert float(jnp.linalg.norm(new['a'])) == pytest.approx(3) and float(jnp.linalg.norm(new['b'])) == pytest.approx(
        4, rel=1e-4
    )
    np.testing.assert_allclose(new['a'] / new['a'].max(), kernels['a'] / kernels['a'].max(), rtol=1e-5)


def test_a_gradient_of_zero_gives_no_update():
    np.testing.assert_allclose(direction(np.zeros((3, 3, 2, 4), np.float32), 3), 0, atol=1e-6)


def test_products_in_one_batch_are_those_of_each_matrix():
    matrices = [jnp.asarray(normal(shape)) for shape in ((36, 8), (8, 5), (20, 8), (8, 20), (5, 5), (7, 1))]
    for matrix, ours in zip(matrices, orthogonalize(matrices, 3), strict=True):
        (alone,) = orthogonalize([matrix], 3)
        assert ours.shape == matrix.shape
        np.testing.assert_allclose(ours, alone, atol=1e-6)


def test_products_in_bfloat16_are_those_in_float32_but_for_five_percent():
    matrices = [jnp.asarray(normal(shape)) for shape in ((576, 64), (216, 64), (24, 32))]
    for ours, exact in zip(orthogonalize(matrices, 3, jnp.bfloat16), orthogonalize(matrices, 3), strict=True):
        assert ours.dtype == jnp.float32
        assert jnp.linalg.norm(ours - exact) < 0.05 * jnp.linalg.norm(exact)


def test_the_state_is_that_of_optax():
    """Its form is that of checkpoints."""
    kernels = {'a': jnp.asarray(normal(SHAPES[0]))}
    ours = jax.eval_shape(muon(lambda step: 1.0, 0.6, True, 3).init, kernels)
    theirs = jax.eval_shape(optax.contrib.scale_by_muon(ns_steps=3).init, kernels)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(theirs)
    assert jax.tree.leaves(ours[1]) == jax.tree.leaves(theirs)
