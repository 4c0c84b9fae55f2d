import functools
import re

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import has_compiler
from sampling import sample

from resnet_jax.models.layers import conv2d
from resnet_jax.ops import kernels
from resnet_jax.ops.convolution import conv, conv_general_dilated

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(params=[False, True], ids=['xla', 'c'])
def form(request, monkeypatch):
    """`conv` as it is without a C compiler, and with the kernels in C."""
    if request.param and not has_compiler():
        pytest.skip('needs a C compiler')
    jax.clear_caches()  # the form is chosen when a program is lowered
    if not request.param:
        monkeypatch.setattr(kernels, 'lanes', lambda: 0)
    yield request.param
    jax.clear_caches()


@pytest.fixture
def full_compilation(quick_compilation):
    """Compiles as for users."""
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', True)


def native(x, kernel, strides, padding, groups=1):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups)


def both(function, size, stride, groups=1):
    """A function of (x, kernel, g) that returns the output and both gradients of a convolution padded by size // 2."""

    def run(x, kernel, g):
        padding = ((size // 2, size // 2),) * 2
        out, pullback = jax.vjp(lambda x, kernel: function(x, kernel, (stride, stride), padding, groups), x, kernel)
        return out, *pullback(g)

    return run


def arguments(image, channels, size, stride, groups=1, batch=8, dtype=jnp.float32):
    """Random (x, kernel, g), scaled so that outputs and gradients are about 1."""
    rng = np.random.default_rng(0)
    out = [(n + 2 * (size // 2) - size) // stride + 1 for n in image]
    x = rng.normal(size=(batch, *image, channels[0]))
    inputs = channels[0] // groups
    kernel = rng.normal(size=(size, size, inputs, channels[1])) / size / np.sqrt(inputs)
    g = rng.normal(size=(batch, *out, channels[1])) / np.sqrt(batch * out[0] * out[1])
    return tuple(jnp.asarray(a, dtype) for a in (x, kernel, g))


# Absolute, of numbers of about 1. Winograd's form is some ten times less accurate than a sum of products.
TOLERANCE = 2e-5
WINOGRAD_TOLERANCE = 5e-5

# (height, width), (in, out), kernel, stride and, if several, groups: every form, and what the models use, with fewer channels
SHAPES = [
    ((32, 32), (3, 16), 3, 1),  # stems
    ((32, 32), (3, 64), 7, 2),
    ((32, 32), (3, 64), 3, 2),
    ((8, 8), (64, 64), 3, 1),  # blocks
    ((16, 16), (16, 32), 3, 2),
    ((4, 4), (128, 256), 3, 2),
    ((2, 2), (256, 256), 3, 1),  # smaller than the kernel
    ((2, 2), (256, 512), 3, 2),
    ((1, 1), (512, 512), 3, 1),
    ((2, 5), (4, 6), 5, 2),
    ((9, 6), (64, 64), 3, 1),  # Winograd's at odd sizes, and with unequal channels
    ((4, 4), (64, 80), 3, 1),
    ((8, 8), (64, 256), 1, 1),  # projections
    ((8, 8), (64, 128), 1, 2),
    ((7, 5), (4, 6), 1, 4),
    ((7, 9), (4, 6), 3, 2),  # odd sizes; phases without a tap
    ((9, 8), (4, 6), 3, 4),
    ((11, 10), (4, 6), 5, 1),
    ((10, 13), (4, 6), 5, 2),
    ((23, 22), (3, 8), 11, 4),
    ((9, 12), (3, 8), 11, 4),
    ((8, 8), (32, 32), 3, 1, 8),  # groups: of each form
    ((8, 7), (12, 24), 3, 2, 3),
    ((8, 8), (32, 32), 3, 2, 4),  # a multiple of C's vector only before it is split
    ((8, 8), (256, 256), 3, 2, 32),  # ResNeXt's
    ((2, 2), (8, 8), 3, 1, 4),
    ((4, 4), (8, 4), 1, 2, 4),
    ((4, 4), (6, 6), 3, 1, 6),
    ((32, 32), (16, 16), 3, 1),  # what C computes: Winograd's with few channels, and direct
    ((16, 16), (32, 48), 3, 1),
    ((5, 5), (16, 16), 3, 1),
    ((9, 8), (16, 16), 3, 4),
    ((11, 10), (32, 16), 5, 1),
    ((23, 22), (3, 16), 11, 4),
    ((5, 6), (32, 32), 2, 1),
    ((8, 7), (48, 48), 3, 2, 3),
]


@functools.cache
def natively(shape):
    """The output and both gradients by XLA, in float32; for both forms."""
    return jax.jit(both(native, *shape[2:]))(*arguments(*shape))


@pytest.mark.parametrize('shape', SHAPES)
def test_output_and_gradients(shape, form):
    args, expected = arguments(*shape), natively(shape)
    winograd = min(shape[1]) >= (16 if form else 64) and shape[2:] == (3, 1)
    for actual, wanted in zip(jax.jit(both(conv, *shape[2:]))(*args), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=WINOGRAD_TOLERANCE if winograd else TOLERANCE)


@pytest.mark.parametrize('shape', [SHAPES[3], SHAPES[4], SHAPES[6], SHAPES[12], SHAPES[22], SHAPES[28]])
def test_bfloat16_is_rounded_once(shape, form):
    # 2^-8 is half the spacing of bfloat16, relatively; XLA's own convolution may round its partial sums besides.
    args = arguments(*shape, dtype=jnp.bfloat16)
    expected = jax.jit(both(native, *shape[2:]))(*(a.astype(jnp.float32) for a in args))
    for actual, wanted in zip(jax.jit(both(conv, *shape[2:]))(*args), expected, strict=True):
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(actual.astype(jnp.float32), wanted, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize('padding', [((0, 0), (0, 0)), ((2, 0), (1, 3))])
@pytest.mark.parametrize(('strides', 'size'), [((1, 1), 3), ((2, 1), 3), ((1, 3), 1)])
def test_other_paddings_and_strides(padding, strides, size, form):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 7, 16), (size, size, 16, 32)))
    expected, native_pullback = jax.vjp(lambda x, kernel: native(x, kernel, strides, padding), x, kernel)
    actual, pullback = jax.vjp(lambda x, kernel: conv(x, kernel, strides, padding), x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=10 * WINOGRAD_TOLERANCE)  # of numbers of about 12
    g = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for a, b in zip(pullback(g), native_pullback(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=10 * WINOGRAD_TOLERANCE)


@pytest.mark.parametrize(
    ('image', 'kernel', 'stride', 'pad'),
    [
        ((33, 31, 3), (11, 11, 3, 64), 4, 2),  # AlexNet's first
        ((14, 14, 6), (5, 5, 6, 16), 1, 0),  # LeNet's second
        ((14, 13, 64), (5, 5, 64, 192), 1, 2),  # AlexNet's second
        ((9, 8, 3), (2, 2, 3, 24), 1, 0),  # whitening
    ],
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_large_even_and_unpadded_kernels_of_the_networks(image, kernel, stride, pad, dtype, form):
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=size) / 4, dtype) for size in ((4, *image), kernel))
    padding = ((pad, pad), (pad, pad))
    expected, native_pullback = jax.vjp(
        lambda x, w: native(x, w, (stride, stride), padding), x.astype(jnp.float32), weights.astype(jnp.float32)
    )
    actual, pullback = jax.vjp(lambda x, w: conv(x, w, (stride, stride), padding), x, weights)
    g = jnp.asarray(rng.normal(size=expected.shape), dtype)
    rounding = {'rtol': 1e-5, 'atol': 1e-3} if dtype == jnp.float32 else {'rtol': 2**-7, 'atol': 0.05}
    for a, b in zip((actual, *pullback(g)), (expected, *native_pullback(g.astype(jnp.float32))), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, **rounding)


@pytest.mark.parametrize('batch', sample([20, 1, 8, 7], 4))
@pytest.mark.parametrize('channels', [(4, 5), (256, 64)])
def test_batches_that_are_no_multiple_of_the_block(channels, batch, form):
    args = arguments((6, 6), channels, 3, 1, batch=batch)
    for actual, wanted in zip(both(conv, 3, 1)(*args), both(native, 3, 1)(*args), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=WINOGRAD_TOLERANCE)


@pytest.mark.parametrize('shape', [((5, 7), (16, 32), 3, 2), ((4, 4), (32, 16), 5, 1), ((9, 9), (16, 16), 3, 3)])
def test_units_of_several_small_images_of_which_the_last_has_fewer(shape, form):
    args = arguments(*shape, batch=131)
    for actual, wanted in zip(jax.jit(both(conv, *shape[2:]))(*args), both(native, *shape[2:])(*args), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize('transform', [jax.vmap, jax.pmap])
@pytest.mark.parametrize(
    'shape',
    sample([((6, 6), (16, 32), 3, 2), ((2, 2), (4, 5), 3, 1), ((4, 4), (4, 5), 1, 2), SHAPES[8], SHAPES[22], SHAPES[28]], 4),
)
def test_vmap_and_pmap(transform, shape, form):
    args = arguments(*shape, batch=8)
    parts = [a.reshape(4, 2, *a.shape[1:]) if a.shape[0] == 8 else jnp.stack([a, 2 * a, -a, a]) for a in args]
    actual = transform(both(conv, *shape[2:]))(*parts)
    for i in range(4):
        for a, b in zip(actual, both(native, *shape[2:])(*(part[i] for part in parts)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=WINOGRAD_TOLERANCE)


@pytest.mark.parametrize('shape', [((6, 6), (16, 16), 3, 2), ((2, 2), (4, 5), 3, 1), SHAPES[8], SHAPES[22]])
def test_export_for_several_platforms(shape):
    args = arguments(*shape)
    exported = jax.export.export(jax.jit(both(conv, *shape[2:])), platforms=('cpu', 'cuda'))(*args)
    for a, b in zip(exported.call(*args), both(native, *shape[2:])(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=WINOGRAD_TOLERANCE)


def operations(function, args, platform):
    """The operations of a program, without their order and the names of their values."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    # What `platform_dependent` leaves behind: a case with one branch, chosen by a constant.
    found = re.findall(r'stablehlo\.(?!case|constant|return)\w+.*', text)
    return sorted(re.sub(r'%\w+', '%', line) for line in found)


@pytest.mark.parametrize('platform', sample(['cuda', 'tpu', 'rocm'], 2))
@pytest.mark.parametrize('shape', [SHAPES[3], SHAPES[4], SHAPES[6], SHAPES[13], SHAPES[22]])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_other_platforms_run_the_native_operations(shape, dtype, platform, form):
    args = arguments(*shape, dtype=dtype)
    expected = operations(both(native, *shape[2:]), args, platform)
    assert sum('convolution' in line for line in expected) == 3
    assert operations(both(conv, *shape[2:]), args, platform) == expected


@pytest.mark.parametrize('dtype', sample([jnp.float32, jnp.bfloat16], 2))
def test_convolutions_in_a_loop_are_canonical(dtype, full_compilation):
    # XLA:CPU compiles the others in a loop to naive ones, up to 130 times slower.
    def canonical(function, shapes):
        def body(_, args):
            results = [both(function, *shape[2:])(*a) for shape, a in zip(shapes, args, strict=True)]
            return [(dx, dkernel, out) for out, dx, dkernel in results]

        loop = jax.jit(lambda args, count: jax.lax.fori_loop(0, count, body, args))
        text = loop.lower([arguments(*shape, dtype=dtype) for shape in shapes], 2).compile().as_text()
        return [numbers == 'b01f_01io->b01f' for numbers in re.findall(r'dim_labels=([\w>-]+)', text)]

    ours = canonical(conv, [*SHAPES[:2], *SHAPES[4:7], SHAPES[12], *SHAPES[21:27]])  # every form
    assert ours
    assert all(ours)
    assert not all(canonical(native, SHAPES[3:4]))


def test_in_a_flax_module():
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 3))

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            return conv2d(5, 3, 2, use_bias=True, name='conv')(x)

    plain = nn.Conv(5, (3, 3), 2, padding=1)
    variables = Module().init(jax.random.key(1), x)
    inner = {'params': variables['params']['conv']}
    assert jax.tree.map(jnp.shape, inner) == jax.tree.map(jnp.shape, plain.init(jax.random.key(1), x))
    np.testing.assert_allclose(Module().apply(variables, x), plain.apply(inner, x), rtol=1e-6)


@pytest.mark.parametrize('kwargs', [{'rhs_dilation': (2, 2)}, {'precision': 'highest'}])
def test_what_is_not_supported_is_refused(kwargs):
    x, kernel, _ = arguments((6, 6), (4, 4), 3, 1)
    with pytest.raises(ValueError, match='only explicit padding'):
        conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **kwargs)
    with pytest.raises(ValueError, match='only explicit padding'):
        conv_general_dilated(x, kernel, (1, 1), 'SAME')


@pytest.mark.parametrize(
    ('x', 'kernel', 'text'),
    [
        (jnp.zeros((1, 4, 4, 16)), jnp.zeros((3, 3, 16, 8)), '8 channels of the result'),
        (jnp.zeros((1, 4, 4, 16), jnp.bfloat16), jnp.zeros((3, 3, 16, 16)), 'expected float32'),
    ],
)
def test_the_kernels_in_c_refuse_what_they_would_overrun(x, kernel, text):
    with kernels.enabled(True):
        if not has_compiler():
            pytest.skip('needs a C compiler')
        if kernel.shape[3] % kernels.lanes() == 0 and 'channels' in text:
            pytest.skip('fits the vectors of this CPU')
        with pytest.raises(ValueError, match=text):
            kernels.conv(x, kernel, 1, ((1, 1), (1, 1)))
        with pytest.raises(ValueError, match='15 channels of the images'):
            kernels.winograd(jnp.zeros((1, 4, 4, 15)), jnp.zeros((36, 15, 16)), ((1, 1), (1, 1)))
