"""A convolution that is fast on a CPU, including its gradients and inside loops; elsewhere it is XLA's own.

XLA:CPU (jax 0.10.2) has four weaknesses. Inside a loop, such as the one over training steps, it uses naive loops for
convolutions whose dimension numbers are not NHWC, HWIO; JAX's own convolution gradients are among them. It always uses naive
loops for images smaller than the kernel. The kernel gradient is slow for large images. And convolutions with 16 or 32
channels run at half the speed of others. So on a CPU:

  rule, in this order     | output              | gradient for the input       | gradient for the kernel
  1x1 kernel              | matrix product      | its transpose                | its transpose; C for large images
  image < kernel          | product with block- | its transpose                | its transpose
                          | Toeplitz matrix     |                              |
  3x3 without stride, of  | Winograd's F(4x4, 3x3), winograd.py: in C up to 256 channels, above in XLA's operations
  16 or more channels     |                     |                              |
  channels out (for the   | direct, in C        | direct, in C                 | direct, in C
  input's gradient: in) a |                     |                              |
  multiple of the lanes   |                     |                              |
  else                    | XLA's convolution   | one NHWC, HWIO convolution   | matrix products over patches,
                          |                     | for each phase of the stride | 8 images at a time
  any of them with groups | one group after another, each by its rule

The rows in C need a C compiler, and a program that runs in this process on one device or, by pmap or shard_map, on several:
see resnet_jax/ops/kernels. Otherwise Winograd's form is used from 64 channels on, and the row 'else' replaces the row 'direct,
in C'.

Milliseconds for float32 at batch 128 on 2 shared cores of an AMD EPYC (Zen 5): XLA's own outside a loop / inside a loop
(another run) / this one, which is equally fast in both. '-' means not measured, a single number that both are the same
operation. All are without C, and the rows 32, 64, 64 and 8, 64, 64 without Winograd's form; docs/performance.md has those
times.

  height, in, out, kernel, stride | output        | gradient for input | gradient for kernel
  32, 64, 64, 3, 1                | 82            | 81 / 488 / 81      | 191 / 20550 / 67
  32, 16, 32, 3, 2                | 3.2           | 8.7 / - / 3.6      | 6.1 / - / 6.0
  8, 64, 64, 3, 1                 | 3.4           | 3.2 / 12 / 3.2     | 5.9 / 315 / 7.0
  4, 128, 256, 3, 2               | 1.7           | 41 / - / 2.1       | 1.5 / - / 1.8
  2, 256, 256, 3, 1               | 99 / 91 / 0.9 | 100 / 7 / 0.9      | 2.0 / 123 / 0.9
  1, 512, 512, 3, 1               | 29 / 24 / 0.5 | 31 / 1.2 / 0.4     | 2.4 / 27 / 0.5
  8, 64, 256, 1, 1                | 1.7 / - / 1.0 | 1.8 / - / 1.1      | 5.1 / - / 1.3

XLA:CPU computes a grouped convolution as if it had one group, and its kernel gradient with naive loops. Milliseconds as
above, but at batch 4 (first row) and 16 on a busy machine: XLA's own / this one / PyTorch 2.13.

  height, channels, groups, stride | output           | both gradients
  32, 512, 8, 1                    | 91 / 21 / 40     | 2103 / 84 / 124
  16, 256, 32, 1                   | 28 / 6.8 / 1.3   | 3655 / 7.6 / 12
  8, 512, 8, 1                     | 14 / 4.3 / 1.6   | 488 / 12 / 21
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from resnet_jax.ops import kernels, winograd

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Form = Callable[[jax.Array, jax.Array, Pair, Padding], jax.Array]  # a way to compute `_native` without groups

# Images per matrix product of the kernel gradient; few enough for their patches to stay in the cache. For 32, 64, 64, 3, 1
# blocks of 2, 8 and 32 images take 172, 153 and 183 ms on a busy machine; at stride 1, 8 was always within 10 % of the best.
_BLOCK = 8

# Output pixels from which C is faster for the gradient of a 1x1 kernel: XLA's product has one long sum per element, which it
# does not split among the cores. Milliseconds at batch 128, XLA / C: 32, 256, 64: 56 / 32; 16, 512, 128: 43 / 30; 8, 1024,
# 256: 36 / 28; 4, 512, 2048: 24 / 65.
_POINTWISE_PIXELS = 64

# Channels (in and out) and images from which Winograd's form is faster. With fewer, its transforms cost more than they save:
# at batch 1 a convolution 4, 512, 512 takes 1.04 ms instead of 0.42, and 8, 256, 256 takes 0.30 instead of 0.51.
_WINOGRAD_CHANNELS = 64
_WINOGRAD_BATCH = 8


def _native(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1) -> jax.Array:
    numbers = ('NHWC', 'HWIO', 'NHWC')
    cut = [(min(low, 0), min(high, 0), 0) for low, high in padding]
    if any(low or high for low, high, _ in cut):
        # XLA:CPU (jax 0.10.2) gives wrong results for some convolutions with negative padding, so crop the image first.
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *cut, (0, 0, 0)])
        padding = ((max(padding[0][0], 0), max(padding[0][1], 0)), (max(padding[1][0], 0), max(padding[1][1], 0)))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups)


def _pointwise(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `_native` for an unpadded 1x1 kernel."""
    x = x[:, :: strides[0], :: strides[1]]
    # Without the reshapes the transposed product has three contracted axes and is four times slower.
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def _toeplitz(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `_native` as a product with a matrix `[h * w * i, oh * ow * o]`: each output pixel sees each input pixel."""
    (h, w), (kh, kw) = x.shape[1:3], kernel.shape[:2]
    (top, bottom), (left, right) = padding
    zero = jnp.zeros((), kernel.dtype)

    def place(row: int, column: int) -> jax.Array:
        """Returns `[h, w, i, o]`, the kernel with its corner at a pixel; negative padding crops what is outside the image."""
        return jax.lax.pad(kernel, zero, ((row, h - kh - row, 0), (column, w - kw - column, 0), (0, 0, 0), (0, 0, 0)))

    rows = range(-top, h + bottom - kh + 1, strides[0])
    columns = range(-left, w + right - kw + 1, strides[1])
    matrix = jnp.stack([place(row, column) for row in rows for column in columns], 3)
    out = x.reshape(x.shape[0], -1) @ matrix.reshape(h * w * x.shape[3], -1)
    return out.reshape(x.shape[0], len(rows), len(columns), -1)


def _winograd(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `_native` for a 3x3 kernel with stride 1."""
    return winograd.conv(x, kernel, padding)


def _winograd_input_gradient(g: jax.Array, kernel: jax.Array, image: Pair, padding: Padding) -> jax.Array:
    """Returns the gradient of `_winograd` with respect to x, `[b, *image, i]`."""
    before = [2 - low for low, _ in padding]
    back = [(low, size + 2 - n - low) for low, size, n in zip(before, image, g.shape[1:3], strict=True)]
    return winograd.conv(g, kernel[::-1, ::-1].swapaxes(2, 3), back)


def _direct(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `_native` in C."""
    return kernels.conv(x, kernel, strides[0], padding)


def _input_gradient(g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """Returns the gradient with respect to x, `[b, *image, i]`.

    Pixels whose positions are equal modulo the stride form a phase. The same kernel taps reach all of them, so each phase is
    a stride-1 convolution of g; a single convolution with `lhs_dilation` would multiply by zeros.
    """
    counts = tuple(-(-size // stride) for size, stride in zip(image, strides, strict=True))

    def taps(axis: int, phase: int) -> tuple[slice, int, Pair]:
        """Returns the taps that reach a phase, their number, and the padding of g."""
        stride, position = strides[axis], phase + padding[axis][0]
        number = len(range(position % stride, kernel.shape[axis], stride))
        before = number - 1 - position // stride
        after = counts[axis] + number - 1 - g.shape[1 + axis] - before
        return slice(position % stride, None, stride), number, (before, after)

    phases = []
    for row in range(strides[0]):
        for column in range(strides[1]):
            (h_taps, kh, h_padding), (w_taps, kw, w_padding) = taps(0, row), taps(1, column)
            part = kernel[h_taps, w_taps][::-1, ::-1].swapaxes(2, 3)
            if kh and kw:
                phases.append(_native(g, part, (1, 1), (h_padding, w_padding)))
            else:
                phases.append(jnp.zeros((g.shape[0], *counts, kernel.shape[2]), g.dtype))
    if len(phases) == 1:
        return phases[0]
    dx = jnp.stack(phases, 3).reshape(-1, *counts, *strides, kernel.shape[2]).transpose(0, 1, 3, 2, 4, 5)
    dx = dx.reshape(-1, counts[0] * strides[0], counts[1] * strides[1], kernel.shape[2])
    return dx[:, : image[0], : image[1]]


def _kernel_gradient(g: jax.Array, x: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """Returns the gradient with respect to the kernel, `[*kernel_size, i, o]`, for float32 arguments, in float32.

    For each row of the kernel, multiplies its transposed patches `[pixels, kw * i]` with g `[pixels, o]`. The patches of all
    rows are slices of one array, which for a 3x3 kernel is 3 times the size of x instead of 9 times.
    """
    kh, kw = kernel_size
    _, oh, ow, o = g.shape
    h_span, w_span = (oh - 1) * strides[0] + 1, (ow - 1) * strides[1] + 1
    block = min(g.shape[0], _BLOCK)

    def add_block(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = images
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        patches = jnp.concatenate([x[:, :, column : column + w_span : strides[1]] for column in range(kw)], -1)
        rows = (patches[:, row : row + h_span : strides[0]].reshape(-1, patches.shape[3]) for row in range(kh))
        return total + jnp.stack([row.T @ g.reshape(-1, o) for row in rows]), None

    def blocks(a: jax.Array) -> jax.Array:
        a = jnp.pad(a, ((0, -a.shape[0] % block), (0, 0), (0, 0), (0, 0)))
        return a.reshape(-1, block, *a.shape[1:])

    total = jnp.zeros((kh, kw * x.shape[3], o), g.dtype)
    total, _ = jax.lax.scan(add_block, total, (blocks(x), blocks(g)))
    return total.reshape(kh, kw, x.shape[3], o)


def _in_c(kernel: jax.Array, strides: Pair) -> bool:
    """Returns whether C computes a convolution and its kernel gradient."""
    return bool(kernels.lanes() and kernel.shape[3] % kernels.lanes() == 0 and strides[0] == strides[1])


def _cpu_form(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1) -> Form:
    """Returns the form that computes each group of channels."""
    if groups > 1:
        x = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[2]), x.dtype)  # type: ignore[assignment]
        kernel = jax.ShapeDtypeStruct((*kernel.shape[:3], kernel.shape[3] // groups), kernel.dtype)  # type: ignore[assignment]
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return _pointwise
    if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
        return _toeplitz
    # An exported program may leave the size of the batch open.
    large = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and isinstance(x.shape[0], int) and x.shape[0] >= _WINOGRAD_BATCH
    in_c = _in_c(kernel, strides)
    if kernel.shape[:2] == (3, 3) and strides == (1, 1) and (large or (in_c and winograd.in_c(x, kernel, padding))):
        return _winograd
    return _direct if in_c else _native


def _split(a: jax.Array, groups: int) -> jax.Array:
    """Splits `[..., groups * channels]` into `[groups, ..., channels]`."""
    return jnp.moveaxis(a.reshape(*a.shape[:-1], groups, -1), -2, 0)


def _merge(a: jax.Array) -> jax.Array:
    """Undoes `_split`."""
    a = jnp.moveaxis(a, 0, -2)
    return a.reshape(*a.shape[:-2], -1)


def _by_group(function: Callable[..., jax.Array], groups: int) -> Callable[..., jax.Array]:
    """Maps `function`, of channels-last arrays, over the groups of channels."""
    if groups == 1:
        return function

    def mapped(*arrays: jax.Array) -> jax.Array:
        return _merge(jax.lax.map(lambda parts: function(*parts), [_split(a, groups) for a in arrays]))

    return mapped


def _native_input_gradient(
    g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding, groups: int = 1
) -> jax.Array:
    x = jax.ShapeDtypeStruct((g.shape[0], *image, kernel.shape[2] * groups), g.dtype)
    (dx,) = jax.linear_transpose(lambda x: _native(x, kernel, strides, padding, groups), x)(g)
    return dx  # type: ignore[no-any-return]


def _native_kernel_gradient(
    g: jax.Array, x: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding, groups: int = 1
) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // groups, g.shape[3]), g.dtype)
    (dkernel,) = jax.linear_transpose(lambda kernel: _native(x, kernel, strides, padding, groups), kernel)(g)
    return dkernel  # type: ignore[no-any-return]


def _in_float32(function: Callable[..., jax.Array], groups: int, *arrays: jax.Array) -> jax.Array:
    result = _by_group(function, groups)(*(a.astype(jnp.float32) for a in arrays))
    return result.astype(arrays[0].dtype)


def _cpu(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int) -> jax.Array:
    form = _cpu_form(x, kernel, strides, padding, groups)
    if (form is _native and groups == 1) or x.dtype == jnp.float64:
        return _native(x, kernel, strides, padding, groups)
    return _in_float32(lambda x, kernel: form(x, kernel, strides, padding), groups, x, kernel)


def _cpu_input_gradient(
    g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding, groups: int
) -> jax.Array:
    if g.dtype == jnp.float64:
        return _native_input_gradient(g, kernel, image, strides, padding, groups)

    def of_group(g: jax.Array, kernel: jax.Array) -> jax.Array:
        x: Any = jax.ShapeDtypeStruct((g.shape[0], *image, kernel.shape[2]), g.dtype)
        form = _cpu_form(x, kernel, strides, padding)
        if form is _winograd:
            return _winograd_input_gradient(g, kernel, image, padding)
        if form is _direct and kernel.shape[2] % kernels.lanes() == 0:
            return kernels.input_gradient(g, kernel, image, strides[0], padding)
        if form in (_direct, _native):
            return _input_gradient(g, kernel, image, strides, padding)
        (dx,) = jax.linear_transpose(lambda x: form(x, kernel, strides, padding), x)(g)
        return dx  # type: ignore[no-any-return]

    return _in_float32(of_group, groups, g, kernel)


def _cpu_kernel_gradient(
    g: jax.Array, x: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding, groups: int
) -> jax.Array:
    if g.dtype == jnp.float64 or not isinstance(g.shape[0], int):
        return _native_kernel_gradient(g, x, kernel_size, strides, padding, groups)

    def of_group(g: jax.Array, x: jax.Array) -> jax.Array:
        kernel: Any = jax.ShapeDtypeStruct((*kernel_size, x.shape[3], g.shape[3]), g.dtype)
        form = _cpu_form(x, kernel, strides, padding)
        large = form is _pointwise and _in_c(kernel, strides) and g.shape[1] * g.shape[2] >= _POINTWISE_PIXELS
        if form is _direct or large:
            return kernels.kernel_gradient(g, x, kernel_size, strides[0], padding)
        if form is _winograd:
            return winograd.kernel_gradient(g, x, padding)
        if form is _native:
            return _kernel_gradient(g, x, kernel_size, strides, padding)
        (dkernel,) = jax.linear_transpose(lambda kernel: form(x, kernel, strides, padding), kernel)(g)
        return dkernel  # type: ignore[no-any-return]

    return _in_float32(of_group, groups, g, x)


def _primitive(name: str, native: Callable[..., jax.Array], cpu: Callable[..., jax.Array]) -> jax.extend.core.Primitive:
    """Returns a primitive of two arrays that is lowered to `cpu` on a CPU and to `native` elsewhere."""
    primitive = jax.extend.core.Primitive(name)

    def lower_for_cpu(context: mlir.LoweringRuleContext, *values: Any, **parameters: Any) -> Any:
        with kernels.enabled(_is_local(context)):
            return mlir.lower_fun(cpu, multiple_results=False)(context, *values, **parameters)

    def abstract(*arrays: jax.core.ShapedArray, **parameters: Any) -> jax.core.ShapedArray:
        result = jax.eval_shape(functools.partial(native, **parameters), *arrays)
        return jax.core.ShapedArray(result.shape, result.dtype)

    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False))
    mlir.register_lowering(primitive, lower_for_cpu, platform='cpu')
    primitive.def_abstract_eval(abstract)
    primitive.def_impl(lambda *arrays, **parameters: _jitted(primitive, tuple(parameters.items()))(*arrays))
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


@functools.cache
def _jitted(primitive: jax.extend.core.Primitive, parameters: tuple[tuple[str, Any], ...]) -> jax.stages.Wrapped:
    return jax.jit(lambda *arrays: primitive.bind(*arrays, **dict(parameters)))


def _is_local(context: mlir.LoweringRuleContext) -> bool:
    """Returns whether what is lowered runs here, whole, on one device.

    An exported program runs elsewhere, and XLA does not know how to divide a call of C among devices.
    """
    module = context.module_context
    axes: Any = module.axis_context
    if module.lowering_parameters.for_export:
        return False
    if hasattr(axes, 'manual_axes'):  # of pmap and shard_map
        return set(axes.manual_axes) == set(axes.mesh.axis_names)
    return bool(getattr(axes, 'num_devices', 1) in (None, 1))


def _batch(
    primitive: jax.extend.core.Primitive, arrays: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any
) -> tuple[jax.Array, int]:
    """Maps a primitive over a new axis of one or both arrays, by a single call of it.

    An axis of images joins the batch if the kernel has none. Otherwise it becomes groups of channels, which leave the batch as
    it is: each group of images is seen by its own group of kernels.
    """
    count = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    if primitive is not kernel_gradient_p and axes[0] is not None and axes[1] is None:
        folded = jnp.moveaxis(arrays[0], axes[0], 0)
        out = primitive.bind(folded.reshape(-1, *folded.shape[2:]), arrays[1], **parameters)
        return out.reshape(count, -1, *out.shape[1:]), 0

    def joined(array: jax.Array, axis: int | None) -> jax.Array:
        """Returns the array with the axis as the slowest part of its channels."""
        if axis is None:
            array, axis = jnp.broadcast_to(array, (count, *array.shape)), 0
        array = jnp.moveaxis(array, axis, -2)
        return array.reshape(*array.shape[:-2], -1)

    groups = parameters.pop('groups')
    out = primitive.bind(*map(joined, arrays, axes), groups=count * groups, **parameters)
    return out.reshape(*out.shape[:-1], count, -1), out.ndim - 1


# A convolution is bilinear, and so are its two gradients. Each one's transposes are the other two, so that any order of forward
# and reverse mode needs no more than these three.
conv_p = _primitive('conv', _native, _cpu)
input_gradient_p = _primitive('conv_input_gradient', _native_input_gradient, _cpu_input_gradient)
kernel_gradient_p = _primitive('conv_kernel_gradient', _native_kernel_gradient, _cpu_kernel_gradient)


def _shape(array: Any) -> tuple[int, ...]:
    """Returns the shape of an array, or of the placeholder for one in a transposition."""
    return tuple((array if hasattr(array, 'shape') else array.aval).shape)


def _size(array: Any) -> Any:
    return _shape(array)[1:3]


def _kernel_size(array: Any) -> Any:
    return _shape(array)[:2]


ad.defbilinear(
    conv_p,
    lambda g, x, kernel, **rest: input_gradient_p.bind(g, kernel, image=_size(x), **rest),
    lambda g, x, kernel, **rest: kernel_gradient_p.bind(g, x, kernel_size=_kernel_size(kernel), **rest),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, g, kernel, image, **rest: conv_p.bind(x, kernel, **rest),
    lambda x, g, kernel, image, **rest: kernel_gradient_p.bind(g, x, kernel_size=_kernel_size(kernel), **rest),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda kernel, g, x, kernel_size, **rest: conv_p.bind(x, kernel, **rest),
    lambda kernel, g, x, kernel_size, **rest: input_gradient_p.bind(g, kernel, image=_size(x), **rest),
)


def conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1) -> jax.Array:
    """Convolves like PyTorch's `conv2d`, in a form chosen by platform and shape when the program is lowered.

    Composes with every transformation of JAX, in any order: forward and reverse mode, vmap, checkpoint, export.

    Args:
      x: float32 or bfloat16, `[b, h, w, i]`. On a CPU bfloat16 is computed in float32 and rounded at the end, except
        that a plain convolution is left to XLA. float64 is XLA's everywhere.
      kernel: of the same dtype, `[kh, kw, i / groups, o]`.
      strides: for height and width.
      padding: zero padding in pixels, ((top, bottom), (left, right)).
      groups: number of channel groups, each of which is seen only by its own `o / groups` outputs.

    Returns:
      `[b, (h + top + bottom - kh) // strides[0] + 1, (w + ...) ..., o]` in x's dtype.
    """
    out: jax.Array = conv_p.bind(x, kernel, strides=strides, padding=padding, groups=groups)
    return out


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[Pair],
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: jax.lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Calls `conv` with the arguments of `nn.Conv(conv_general_dilated=...)`.

    Raises:
      ValueError: an argument has no equivalent in `conv`.
    """
    if {*lhs_dilation, *rhs_dilation} != {1} or precision is not None or isinstance(padding, str):
        raise ValueError('only explicit padding, no dilation and default precision are supported')
    (down, right), ((top, bottom), (left, after)) = window_strides, padding
    return conv(lhs, rhs, (down, right), ((top, bottom), (left, after)), feature_group_count)
