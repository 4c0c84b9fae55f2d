import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from resnet_jax.ops.sums import copies, sums

ARRAYS = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
VECTORS = ARRAYS[:, 0, 0, 0]


def test_sums_and_copies():
    for ours, array in zip(sums(*ARRAYS), ARRAYS, strict=True):
        np.testing.assert_allclose(ours, array.sum((0, 1, 2)), rtol=1e-5)
    for ours, vector in zip(copies(np.zeros((3, 4, 6)), *VECTORS), VECTORS, strict=True):
        np.testing.assert_array_equal(ours, np.broadcast_to(vector, (3, 4, 6)))


@pytest.mark.parametrize('function', [sums, functools.partial(copies, np.zeros((2, 6)))])
def test_derivatives_of_any_order_also_of_one_argument(function):
    point = ARRAYS[:, :1, :2] if function is sums else VECTORS
    check_grads(lambda a, b: [jnp.sin(x) for x in function(a, b)], tuple(point), order=2, rtol=0.02)
    check_grads(lambda a: jnp.sin(function(a, point[1])[0]), (point[0],), order=2, rtol=0.02)
    check_grads(lambda a: function(a, 2 * a)[1] ** 2, (point[0],), order=2, rtol=0.02)


def test_mapped_over_any_axis_of_any_argument():
    for axes in ((0, 2), (1, None), (None, 0), (2, 1)):
        pairs = list(zip(ARRAYS, axes, strict=True))
        mapped = [array[..., 0] if axis is None else np.moveaxis(array, 3, axis) for array, axis in pairs]
        for ours, (array, axis) in zip(jax.vmap(sums, axes)(*mapped), pairs, strict=True):
            alone = [sums(array[..., 0 if axis is None else i])[0] for i in range(6)]
            np.testing.assert_allclose(ours, np.stack(alone), rtol=1e-5)
    mapped = jax.vmap(functools.partial(copies, np.zeros((3, 6))), (0, None))(ARRAYS[0, 0, 0], VECTORS[1])
    np.testing.assert_array_equal(mapped[0], np.broadcast_to(ARRAYS[0, 0, 0][:, None], (5, 3, 6)))
    np.testing.assert_array_equal(mapped[1], np.broadcast_to(VECTORS[1], (5, 3, 6)))


@pytest.mark.parametrize(('platform', 'reductions'), [('cuda', 1), ('cpu', 2)])
def test_one_reduction_on_a_gpu_in_both_passes(platform, reductions):
    def gradient(a, b, c, d):
        return jax.vjp(functools.partial(copies, a), c, d)[1]([a, b])

    for function, arguments in ((sums, ARRAYS), (gradient, (*ARRAYS, *VECTORS))):
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert text.count('stablehlo.reduce(') == reductions
