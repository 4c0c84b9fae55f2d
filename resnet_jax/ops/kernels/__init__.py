"""Convolutions in C for the CPU, which XLA calls through its foreign function interface; float32, NHWC.

If a C compiler is found, `resnet_jax.ops.convolution` uses them when it lowers a program that runs on a CPU in this process.
Otherwise, and in exported programs, it uses XLA's operations.

The functions raise ValueError if an array is not float32, if channels are not a multiple of `lanes()`, or if `lanes()` is 0.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.ops.kernels import build

Pair = tuple[int, int]
Padding = Sequence[Sequence[int]]

_enabled = contextvars.ContextVar('enabled', default=False)

# Largest number of parts of a kernel gradient's sum, each computed by one thread; fewer if the parts would exceed 16 MB.
_PARTS = 8


@contextlib.contextmanager
def enabled(value: bool) -> Iterator[None]:
    """Sets whether programs traced in this context use these kernels."""
    token = _enabled.set(value)
    try:
        yield
    finally:
        _enabled.reset(token)


def lanes() -> int:
    """Returns the number of which channels must be a multiple; 0 if these kernels must not be used."""
    if not _enabled.get():
        return 0
    library = build.library()
    return library.lanes if library else 0


def _call(name: str, shapes: Sequence[Sequence[int]], *arguments: jax.Array, geometry: Sequence[int]) -> jax.Array:
    library = build.library()
    if library is None:
        raise ValueError('there are no kernels; expected to be called where lanes() is above 0')
    # C does not check its arguments and would write out of bounds.
    if shapes[0][-1] % library.lanes:
        raise ValueError(f'{shapes[0][-1]} channels of the result; expected a multiple of {library.lanes}')
    if any(a.dtype != jnp.float32 for a in arguments):
        raise ValueError(f'arguments are {[a.dtype.name for a in arguments]}; expected float32')
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(library.target(name), results, vmap_method='sequential')
    return call(*arguments, geometry=np.asarray(geometry, np.int64))[0]


def _check_inputs(x: jax.Array) -> None:
    if not lanes() or x.shape[3] % lanes():
        raise ValueError(f'{x.shape[3]} channels of the images; expected a multiple of {lanes()}')


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Convolves float32 `[b, h, w, i]` with `[kh, kw, i, o]` to `[b, oh, ow, o]`; o must be a multiple of `lanes()`."""
    (top, bottom), (left, right) = padding
    batch, height, width, _ = x.shape
    kh, kw, _, o = kernel.shape
    padded = (height + top + bottom, width + left + right)
    shape = (batch, (padded[0] - kh) // stride + 1, (padded[1] - kw) // stride + 1, o)
    return _call('conv', [shape], x, kernel, geometry=[stride, 1, top, left, *padded, 1, kh, kw, 0, 0, 0, 0, 0])


def input_gradient(g: jax.Array, kernel: jax.Array, image: Sequence[int], stride: int, padding: Padding) -> jax.Array:
    """Returns the input gradient, `[b, *image, i]`, from the output gradient g; i must be a multiple of `lanes()`.

    Pixels whose positions are equal modulo the stride form a phase. The same kernel taps reach all pixels of a phase, so each
    phase is a stride-1 convolution of g.
    """
    phases, parts, offset = [], [], 0
    spans: list[list[Pair]] = [[], []]  # rows and columns of g, including those outside g
    for position in np.ndindex(stride, stride):
        taps, first = [], []
        for axis in (0, 1):
            reach = position[axis] + padding[axis][0]
            taps.append(range(reach % stride, kernel.shape[axis], stride)[::-1])
            first.append((reach - taps[axis][0]) // stride if taps[axis] else 0)
        size = [len(t) for t in taps] if all(taps) else [0, 0]
        phases.append([*size, *position, *first, offset])
        if all(taps) and all(p < n for p, n in zip(position, image, strict=True)):
            parts.append(kernel[np.ix_(*taps)].swapaxes(2, 3).reshape(-1))
            offset += parts[-1].size
            for axis in (0, 1):
                pixels = len(range(position[axis], image[axis], stride))
                spans[axis].append((first[axis], first[axis] + pixels - 1 + size[axis] - 1))
    low = [min(start for start, _ in span) for span in spans]
    padded = [max(end for _, end in span) - start + 1 for span, start in zip(spans, low, strict=True)]
    for phase in phases:
        phase[4:6] = [phase[4] - low[0], phase[5] - low[1]]
    geometry = [1, stride, -low[0], -low[1], *padded, len(phases), *np.ravel(phases)]
    return _call('conv', [(g.shape[0], *image, kernel.shape[2])], g, jnp.concatenate(parts), geometry=geometry)


def kernel_gradient(g: jax.Array, x: jax.Array, kernel_size: Sequence[int], stride: int, padding: Padding) -> jax.Array:
    """Returns the kernel gradient, `[*kernel_size, i, o]`, from the output gradient; o must be a multiple of `lanes()`."""
    (top, bottom), (left, right) = padding
    padded = (x.shape[1] + top + bottom, x.shape[2] + left + right)
    shape = (*kernel_size, x.shape[3], g.shape[3])
    return _in_parts('kernel_gradient', shape, int(np.prod(shape)), x, g, geometry=[stride, 1, top, left, *padded])


def winograd(x: jax.Array, transformed: jax.Array, padding: Padding) -> jax.Array:
    """Convolves float32 `[b, h, w, i]` with a transformed 3x3 kernel `[36, i, o]`; i and o must be multiples of `lanes()`.

    Returns `[b, h + top + bottom - 2, w + left + right - 2, o]`.
    """
    _check_inputs(x)
    (top, bottom), (left, right) = padding
    shape = (x.shape[0], x.shape[1] + top + bottom - 2, x.shape[2] + left + right - 2, transformed.shape[2])
    return _call('winograd', [shape], x, transformed, geometry=[top, left])


def winograd_kernel_gradient(g: jax.Array, x: jax.Array, padding: Padding) -> jax.Array:
    """Returns the gradient of `winograd`'s untransformed kernel, `[3, 3, i, o]`, from the output gradient."""
    _check_inputs(x)
    (top, _), (left, _) = padding
    shape = (3, 3, x.shape[3], g.shape[3])
    return _in_parts('winograd_kernel_gradient', shape, 36 * x.shape[3] * g.shape[3], x, g, geometry=[top, left])


def _in_parts(name: str, shape: Sequence[int], size: int, *arguments: jax.Array, geometry: Sequence[int]) -> jax.Array:
    parts = min(_PARTS, max(2, 2**22 // size))
    return _call(name, [shape, (parts, size)], *arguments, geometry=geometry)
