"""The forms of a convolution and its two gradients: XLA's, and forms that are fast on a CPU, also inside loops.

XLA:CPU (jax 0.10.2) has four weaknesses. Inside a loop, such as the loop over training steps, it uses naive loops for
convolutions whose dimension numbers are not NHWC, HWIO, such as JAX's convolution gradients. It always uses naive loops for
images smaller than the kernel. The kernel gradient is slow for large images. And convolutions with 16 or 32 channels run at
half the speed of others. So on a CPU:

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

The rows in C need a C compiler, and a program that runs in this process on one device or, with pmap or shard_map, on several
devices: see resnet_jax/ops/kernels. Without C, Winograd's form is used from 64 channels on, and the row 'else' replaces the
row 'direct, in C'.

Milliseconds for float32 at batch 128 on 2 shared cores of an AMD EPYC (Zen 5): XLA's form outside a loop / inside a loop
(another run) / the form here, which is equally fast in both. '-' means not measured; a single number means that both forms
are the same operation. All times are without C, and those of 32, 64, 64 and 8, 64, 64 also without Winograd's form;
docs/performance.md has the times with them.

  height, in, out, kernel, stride | output        | gradient for input | gradient for kernel
  32, 64, 64, 3, 1                | 82            | 81 / 488 / 81      | 191 / 20550 / 67
  32, 16, 32, 3, 2                | 3.2           | 8.7 / - / 3.6      | 6.1 / - / 6.0
  8, 64, 64, 3, 1                 | 3.4           | 3.2 / 12 / 3.2     | 5.9 / 315 / 7.0
  4, 128, 256, 3, 2               | 1.7           | 41 / - / 2.1       | 1.5 / - / 1.8
  2, 256, 256, 3, 1               | 99 / 91 / 0.9 | 100 / 7 / 0.9      | 2.0 / 123 / 0.9
  1, 512, 512, 3, 1               | 29 / 24 / 0.5 | 31 / 1.2 / 0.4     | 2.4 / 27 / 0.5
  8, 64, 256, 1, 1                | 1.7 / - / 1.0 | 1.8 / - / 1.1      | 5.1 / - / 1.3

XLA:CPU computes a grouped convolution as if it had one group, and its kernel gradient with naive loops. Milliseconds as
above, but at batch 4 (first row) and 16 on a busy machine: XLA's form / the form here / PyTorch 2.13.

  height, channels, groups, stride | output           | both gradients
  32, 512, 8, 1                    | 91 / 21 / 40     | 2103 / 84 / 124
  16, 256, 32, 1                   | 28 / 6.8 / 1.3   | 3655 / 7.6 / 12
  8, 512, 8, 1                     | 14 / 4.3 / 1.6   | 488 / 12 / 21
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.ops import kernels, winograd

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Form = Callable[[jax.Array, jax.Array, Pair, Padding], jax.Array]  # a way to compute `native` without groups

# Images per matrix product of the kernel gradient, so few that their patches stay in the cache. For 32, 64, 64, 3, 1, blocks
# of 2, 8 and 32 images take 172, 153 and 183 ms on a busy machine; at stride 1, 8 was always within 10 % of the best.
_BLOCK = 8

# Number of output pixels from which C is faster for the gradient of a 1x1 kernel: XLA does not split the long sum of each
# element among the cores. Milliseconds at batch 128, XLA / C: 32, 256, 64: 56 / 32; 16, 512, 128: 43 / 30; 8, 1024, 256:
# 36 / 28; 4, 512, 2048: 24 / 65.
_POINTWISE_PIXELS = 64

# Numbers of channels (in and out) and images from which Winograd's form is faster. Below, its transforms cost more than they
# save: at batch 1 a convolution 4, 512, 512 takes 1.04 ms instead of 0.42, and 8, 256, 256 takes 0.30 instead of 0.51.
_WINOGRAD_CHANNELS = 64
_WINOGRAD_BATCH = 8


def native(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1) -> jax.Array:
    """Computes the convolution with XLA; arguments and result as in `convolution.conv`."""
    numbers = ('NHWC', 'HWIO', 'NHWC')
    cut = [(min(low, 0), min(high, 0), 0) for low, high in padding]
    if any(low or high for low, high, _ in cut):
        # XLA:CPU (jax 0.10.2) gives wrong results for some convolutions with negative padding, so crop the image first.
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *cut, (0, 0, 0)])
        padding = ((max(padding[0][0], 0), max(padding[0][1], 0)), (max(padding[1][0], 0), max(padding[1][1], 0)))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups)


def _pointwise(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `native` for an unpadded 1x1 kernel."""
    x = x[:, :: strides[0], :: strides[1]]
    # Without the reshapes the transposed product has three contracted axes and is four times slower.
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def _toeplitz(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `native` as a product with a matrix `[h * w * i, oh * ow * o]`: each output pixel sees each input pixel."""
    (h, w), (kh, kw) = x.shape[1:3], kernel.shape[:2]
    (top, bottom), (left, right) = padding
    zero = jnp.zeros((), kernel.dtype)

    def place(row: int, column: int) -> jax.Array:
        """Returns `[h, w, i, o]`, the kernel with its corner at a pixel; negative padding crops the taps outside the image."""
        return jax.lax.pad(kernel, zero, ((row, h - kh - row, 0), (column, w - kw - column, 0), (0, 0, 0), (0, 0, 0)))

    rows = range(-top, h + bottom - kh + 1, strides[0])
    columns = range(-left, w + right - kw + 1, strides[1])
    matrix = jnp.stack([place(row, column) for row in rows for column in columns], 3)
    out = x.reshape(x.shape[0], -1) @ matrix.reshape(h * w * x.shape[3], -1)
    return out.reshape(x.shape[0], len(rows), len(columns), -1)


def _winograd(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `native` for a 3x3 kernel with stride 1."""
    return winograd.conv(x, kernel, padding)


def _winograd_input_gradient(g: jax.Array, kernel: jax.Array, image: Pair, padding: Padding) -> jax.Array:
    """Returns the gradient of `_winograd` with respect to x, `[b, *image, i]`."""
    before = [2 - low for low, _ in padding]
    back = [(low, size + 2 - n - low) for low, size, n in zip(before, image, g.shape[1:3], strict=True)]
    return winograd.conv(g, kernel[::-1, ::-1].swapaxes(2, 3), back)


def _direct(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Computes `native` in C."""
    return kernels.conv(x, kernel, strides[0], padding)


def _input_gradient(g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """Returns the gradient with respect to x, `[b, *image, i]`.

    Pixels whose positions are equal modulo the stride form a phase. The same kernel taps reach all pixels of a phase, so each
    phase is a stride-1 convolution of g; a single convolution with `lhs_dilation` would multiply by zeros.
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
                phases.append(native(g, part, (1, 1), (h_padding, w_padding)))
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
    rows are slices of one array; for a 3x3 kernel it has 3 times the size of x, instead of 9 times.
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
    if not (isinstance(x.shape[1], int) and isinstance(x.shape[2], int)):  # an exported program may have a symbolic image size
        return native
    if groups > 1:
        x = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[2]), x.dtype)  # type: ignore[assignment]
        kernel = jax.ShapeDtypeStruct((*kernel.shape[:3], kernel.shape[3] // groups), kernel.dtype)  # type: ignore[assignment]
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return _pointwise
    if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
        return _toeplitz
    # An exported program may have a symbolic batch size.
    large = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and isinstance(x.shape[0], int) and x.shape[0] >= _WINOGRAD_BATCH
    in_c = _in_c(kernel, strides)
    if kernel.shape[:2] == (3, 3) and strides == (1, 1) and (large or (in_c and winograd.in_c(x, kernel, padding))):
        return _winograd
    return _direct if in_c else native


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


def native_input_gradient(
    g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding, groups: int = 1
) -> jax.Array:
    """Returns XLA's gradient with respect to x, `[b, *image, i]`, from the output gradient g."""
    x = jax.ShapeDtypeStruct((g.shape[0], *image, kernel.shape[2] * groups), g.dtype)
    (dx,) = jax.linear_transpose(lambda x: native(x, kernel, strides, padding, groups), x)(g)
    return dx  # type: ignore[no-any-return]


def native_kernel_gradient(
    g: jax.Array, x: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding, groups: int = 1
) -> jax.Array:
    """Returns XLA's gradient with respect to the kernel, `[*kernel_size, i, o]`, from the output gradient g."""
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // groups, g.shape[3]), g.dtype)
    (dkernel,) = jax.linear_transpose(lambda kernel: native(x, kernel, strides, padding, groups), kernel)(g)
    return dkernel  # type: ignore[no-any-return]


def _in_float32(function: Callable[..., jax.Array], groups: int, *arrays: jax.Array) -> jax.Array:
    result = _by_group(function, groups)(*(a.astype(jnp.float32) for a in arrays))
    return result.astype(arrays[0].dtype)


def cpu(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int) -> jax.Array:
    """Computes `native` by the table above."""
    form = _cpu_form(x, kernel, strides, padding, groups)
    if (form is native and groups == 1) or x.dtype == jnp.float64:
        return native(x, kernel, strides, padding, groups)
    return _in_float32(lambda x, kernel: form(x, kernel, strides, padding), groups, x, kernel)


def cpu_input_gradient(g: jax.Array, kernel: jax.Array, image: Pair, strides: Pair, padding: Padding, groups: int) -> jax.Array:
    """Computes `native_input_gradient` by the table above."""
    if g.dtype == jnp.float64:
        return native_input_gradient(g, kernel, image, strides, padding, groups)

    def of_group(g: jax.Array, kernel: jax.Array) -> jax.Array:
        x: Any = jax.ShapeDtypeStruct((g.shape[0], *image, kernel.shape[2]), g.dtype)
        form = _cpu_form(x, kernel, strides, padding)
        if form is _winograd:
            return _winograd_input_gradient(g, kernel, image, padding)
        if form is _direct and kernel.shape[2] % kernels.lanes() == 0:
            return kernels.input_gradient(g, kernel, image, strides[0], padding)
        if form in (_direct, native):
            return _input_gradient(g, kernel, image, strides, padding)
        (dx,) = jax.linear_transpose(lambda x: form(x, kernel, strides, padding), x)(g)
        return dx  # type: ignore[no-any-return]

    return _in_float32(of_group, groups, g, kernel)


def cpu_kernel_gradient(
    g: jax.Array, x: jax.Array, kernel_size: Pair, strides: Pair, padding: Padding, groups: int
) -> jax.Array:
    """Computes `native_kernel_gradient` by the table above."""
    if g.dtype == jnp.float64 or not isinstance(g.shape[0], int):
        return native_kernel_gradient(g, x, kernel_size, strides, padding, groups)

    def of_group(g: jax.Array, x: jax.Array) -> jax.Array:
        kernel: Any = jax.ShapeDtypeStruct((*kernel_size, x.shape[3], g.shape[3]), g.dtype)
        form = _cpu_form(x, kernel, strides, padding)
        large = form is _pointwise and _in_c(kernel, strides) and g.shape[1] * g.shape[2] >= _POINTWISE_PIXELS
        if form is _direct or large:
            return kernels.kernel_gradient(g, x, kernel_size, strides[0], padding)
        if form is _winograd:
            return winograd.kernel_gradient(g, x, padding)
        if form is native:
            return _kernel_gradient(g, x, kernel_size, strides, padding)
        (dkernel,) = jax.linear_transpose(lambda kernel: form(x, kernel, strides, padding), kernel)(g)
        return dkernel  # type: ignore[no-any-return]

    return _in_float32(of_group, groups, g, x)
