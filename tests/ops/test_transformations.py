"""The convolution under JAX's transformations, in any order: against JAX's own convolution, finite differences and theory."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import has_compiler
from jax.test_util import check_grads
from sampling import sample
from test_convolution import SHAPES, arguments, native

from resnet_jax.ops.convolution import conv

pytestmark = pytest.mark.usefixtures('quick_compilation')

# One of each form: C, Winograd's, matrix product, block-Toeplitz, strided, and groups.
FORMS = [SHAPES[i] for i in (0, 3, 4, 6, 12, 13, 15)] + [((6, 6), (8, 16), 3, 2, 4)]


def of(function, size, stride, groups=1):
    padding = ((size // 2, size // 2),) * 2
    return lambda x, kernel: function(x, kernel, (stride, stride), padding, groups)


def loss(function):
    """A loss that is not quadratic in either argument, so that every derivative differs."""
    return lambda x, kernel: jnp.sin(function(x, kernel)).sum()


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * scale)


def forward(f, args, tangents):
    return jax.jvp(f, args, tangents)


def forward_over_reverse(f, args, tangents):
    return jax.jvp(jax.grad(loss(f), (0, 1)), args, tangents)


def reverse_over_forward(f, args, tangents):
    return jax.grad(lambda *args: jax.jvp(loss(f), args, tangents)[1], (0, 1))(*args)


def reverse_over_reverse(f, args, tangents):
    def product(*args):
        return sum(jnp.vdot(g, t) for g, t in zip(jax.grad(loss(f), (0, 1))(*args), tangents, strict=True))

    return jax.grad(product, (0, 1))(*args)


def linearized(f, args, tangents):
    out, linear = jax.linearize(f, *args)
    (transposed,) = jax.linear_transpose(lambda t: linear(*t), args)(out)
    return linear(*tangents), transposed


def checkpointed(f, args, tangents):
    return jax.grad(jax.checkpoint(loss(f)), (0, 1))(*args)


def third(f, args, tangents):
    return jax.jvp(lambda *args: forward_over_reverse(f, args, tangents)[1], args, tangents)[1]


@pytest.mark.parametrize('shape', sample(FORMS, 3), ids=str)
@pytest.mark.parametrize(
    'transformed',
    [forward, forward_over_reverse, reverse_over_forward, reverse_over_reverse, linearized, checkpointed, third],
    ids=lambda function: function.__name__,
)
def test_derivatives_are_those_of_jax(transformed, shape):
    x, kernel, _ = arguments(*shape, batch=4)
    tangents = tuple(jnp.asarray(np.random.default_rng(1).normal(size=a.shape), a.dtype) for a in (x, kernel))
    ours, theirs = (
        jax.jit(functools.partial(transformed, of(function, *shape[2:])))((x, kernel), tangents) for function in (conv, native)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize('shape', sample(FORMS, 3), ids=str)
@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0), (3, 2)], ids=str)
@pytest.mark.parametrize('nested', sample([False, True], 2))
def test_vmap_of_a_convolution_and_its_derivatives(axes, shape, nested):
    x, kernel, _ = arguments(*shape, batch=2)
    args = []
    for a, axis in zip((x, kernel), axes, strict=True):
        stacked = a if axis is None else jnp.stack([a, 2 * a, -a], axis)
        args.append(stacked if axis is None or not nested else jnp.stack([stacked, 3 * stacked]))

    def mapped(function):
        f = of(function, *shape[2:])
        run = jax.vmap(lambda x, kernel: (f(x, kernel), jax.grad(loss(f), (0, 1))(x, kernel)), axes)
        if nested:
            run = jax.vmap(run, tuple(axis if axis is None else 0 for axis in axes))
        return jax.jit(run)(*args)

    assert_close(mapped(conv), mapped(native))


@pytest.mark.parametrize('shape', sample(FORMS, 3), ids=str)
def test_finite_differences_in_float64(shape):
    with jax.enable_x64(True):
        args = arguments(*shape, batch=2, dtype=jnp.float64)[:2]
        check_grads(loss(of(conv, *shape[2:])), args, order=2, modes=('fwd', 'rev'), rtol=1e-4, atol=1e-4)


def test_gradients_of_each_example():
    shape = SHAPES[0]
    x, kernel, _ = arguments(*shape, batch=4)
    f = loss(of(conv, *shape[2:]))
    each = jax.jit(jax.vmap(jax.grad(lambda kernel, x: f(x[None], kernel)), (None, 0)))(kernel, x)
    expected = [jax.grad(lambda kernel, i=i: f(x[i : i + 1], kernel))(kernel) for i in range(4)]
    assert_close(each, jnp.stack(expected))


def test_a_hessian_by_columns_is_that_of_jax():
    x, kernel, _ = arguments((3, 3), (2, 2), 3, 1, batch=1)
    ours, theirs = (jax.hessian(lambda kernel, f=f: loss(of(f, 3, 1))(x, kernel))(kernel) for f in (conv, native))
    assert_close(ours, theirs)


def test_values_and_gradients_within_disable_jit():
    x, kernel, _ = arguments((6, 6), (8, 16), 3, 1, batch=2)
    expected = jax.value_and_grad(loss(of(native, 3, 1)), (0, 1))(x, kernel)
    with jax.disable_jit():
        assert_close(jax.value_and_grad(loss(of(conv, 3, 1)), (0, 1))(x, kernel), expected)


def test_it_runs_without_jit_and_refuses_other_shapes():
    x, kernel, _ = arguments(*SHAPES[0], batch=2)
    assert_close(of(conv, 3, 1)(x, kernel), of(native, 3, 1)(x, kernel))
    with pytest.raises(ValueError, match='conv_general_dilated'):
        of(conv, 3, 1)(x, kernel[:, :, :2])


@pytest.mark.parametrize('shape', [SHAPES[0], SHAPES[3], SHAPES[12]], ids=str)
def test_exports_of_a_symbolic_batch_have_no_call_of_c(shape):
    x, kernel, _ = arguments(*shape, batch=8)
    (batch,) = jax.export.symbolic_shape('batch')
    function = of(conv, *shape[2:])
    f = jax.jit(lambda x, kernel: (function(x, kernel), jax.grad(loss(function), (0, 1))(x, kernel)))
    symbolic = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(f, platforms=('cpu', 'cuda'))(symbolic, kernel)
    assert 'resnet_jax_' not in exported.mlir_module()
    assert_close(exported.call(x, kernel), f(x, kernel))


def test_a_program_that_xla_divides_among_devices_has_no_call_of_c():
    """XLA does not know how to divide it, and would gather the whole batch on every device."""
    x, kernel, _ = arguments(*SHAPES[0], batch=8)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
    divided = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data')))
    f = jax.jit(of(conv, 3, 1))
    text = f.lower(divided, kernel).compile().as_text()
    assert 'all-gather' not in text and 'resnet_jax_' not in text
    assert_close(f(divided, kernel), f(x, kernel))


@pytest.mark.skipif(not has_compiler(), reason='needs a C compiler')
@pytest.mark.parametrize('how', ['jit', 'pmap', 'shard_map', 'grad', 'jvp', 'vmap'])
def test_c_runs_wherever_one_device_has_the_whole_program(how):
    x, kernel, _ = arguments(*SHAPES[0], batch=4)
    f = of(conv, 3, 1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
    spec = jax.sharding.PartitionSpec('data')
    functions = {
        'jit': (jax.jit(f), (x, kernel)),
        'pmap': (jax.pmap(f, in_axes=(0, None)), (x[:, None], kernel)),
        'shard_map': (
            jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(spec, jax.sharding.PartitionSpec()), out_specs=spec)),
            (x, kernel),
        ),
        'grad': (jax.jit(jax.grad(loss(f), 1)), (x, kernel)),
        'jvp': (jax.jit(lambda x, kernel: jax.jvp(f, (x, kernel), (x, kernel))), (x, kernel)),
        'vmap': (jax.jit(jax.vmap(f, (0, None))), (x[:, None], kernel)),
    }
    function, args = functions[how]
    assert 'resnet_jax_' in function.lower(*args).as_text()
