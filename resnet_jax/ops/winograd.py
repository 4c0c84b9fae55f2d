"""A stride-1 3x3 convolution with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, sections 4.1 to 4.3. The image is cut
into tiles of 6x6 pixels that overlap by 2. Tiles and kernel are transformed linearly and multiplied over the channels at each
of the 36 places in a tile; a linear transform of the products gives 4x4 pixels of the output. The transposed operation gives
the kernel gradient. Everything is float32.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from resnet_jax.ops import kernels

Matrix = Sequence[Sequence[float]]

TILE = 4  # output pixels on a side
_PLACES = TILE + 2

# Section 4.3 of the paper, F(4x4, 3x3): interpolation at 0, 1, -1, 2, -2 and infinity.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_OUTPUT_TRANSPOSED = tuple(zip(*_OUTPUT, strict=True))
_KERNEL_TRANSPOSED = tuple(zip(*_KERNEL, strict=True))

# Tiles times channels of a block. The block's transformed images, with 36 places per tile, take 4.7 MB.
_BLOCK = 32768

# Input channels times output channels up to which C is faster than XLA's operations: a larger transformed kernel does not stay
# in the cache from one block of tiles to the next.
_LARGEST_IN_C = 256 * 256


def _combine(matrix: Matrix, parts: Sequence[jax.Array]) -> jax.Array:
    """Multiplies the matrix by a vector of arrays; stacks the results on axis 0. Computes sums, which XLA can fuse."""
    rows = ([c * part for c, part in zip(row, parts, strict=True) if c] for row in matrix)
    # Without the barrier, XLA fuses the second pass over an image with the first pass and computes the first pass six times.
    out: jax.Array = jax.lax.optimization_barrier(jnp.stack([sum(terms[1:], terms[0]) for terms in rows]))
    return out


def _transform(matrix: Matrix, x: jax.Array, tiles: tuple[int, int]) -> jax.Array:
    """Applies the matrix to columns and rows of each tile of `[b, h, w, c]`; returns `[36, b * tiles, c]`."""
    size = len(matrix[0])
    for axis, number in ((-2, tiles[1]), (-3, tiles[0])):
        axis += x.ndim
        span = TILE * (number - 1) + 1
        parts = [jax.lax.slice_in_dim(x, start, start + span, TILE, axis) for start in range(size)]
        x = _combine(matrix, parts)
    return x.reshape(_PLACES**2, -1, x.shape[-1])


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """Transforms a kernel `[3, 3, i, o]` to `[36, i, o]`."""
    columns = _combine(_KERNEL, [kernel[:, j] for j in range(3)])
    return _combine(_KERNEL, [columns[:, i] for i in range(3)]).reshape(-1, *kernel.shape[2:])


def _transform_output(products: jax.Array, batch: int, tiles: tuple[int, int]) -> jax.Array:
    """Transforms products `[36, batch * tiles, o]` to an image `[batch, 4 * tiles, 4 * tiles, o]`."""
    m = products.reshape(_PLACES, _PLACES, batch, *tiles, -1)
    rows = _combine(_OUTPUT, [m[i] for i in range(_PLACES)])  # [row, column place, b, th, tw, o]
    out = _combine(_OUTPUT, [rows[:, j] for j in range(_PLACES)])  # [column, row, b, th, tw, o]
    return out.transpose(2, 3, 1, 4, 0, 5).reshape(batch, tiles[0] * TILE, tiles[1] * TILE, -1)


def _tiles(image: Sequence[int]) -> tuple[int, int]:
    """Returns how many tiles, down and across, cover an output of `[h, w]`."""
    return -(-image[0] // TILE), -(-image[1] // TILE)


def _pad(x: jax.Array, padding: Sequence[Sequence[int]], size: Sequence[int]) -> jax.Array:
    """Pads images `[b, h, w, c]` by `padding` at the top and left, and up to `size` at the bottom and right."""
    width = [(low, n - x.shape[axis] - low) for axis, (low, _), n in zip((1, 2), padding, size, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*w, 0) for w in width), (0, 0, 0)])


def _blocks(arrays: Sequence[jax.Array], tiles: tuple[int, int], channels: int) -> list[jax.Array]:
    """Splits `[b, ...]` into zero-padded `[blocks, block, ...]`, so that a block's transforms stay in the cache."""
    batch, number = arrays[0].shape[0], math.prod(tiles)
    # At least 128 rows per product, because the product's other matrix is read once per block.
    block = min(batch, max(_BLOCK // (number * channels), 128 // number, 1))
    padded = [jnp.pad(a, [(0, -batch % block)] + [(0, 0)] * (a.ndim - 1)) for a in arrays]
    return [a.reshape(-1, block, *a.shape[1:]) for a in padded]


def _fits_c(inputs: int, outputs: int, image: Sequence[int]) -> bool:
    """Returns whether C supports this convolution and most of the tiles' area is inside the image."""
    lanes = kernels.lanes()
    multiples = lanes and inputs % lanes == outputs % lanes == 0
    return bool(multiples and inputs * outputs <= _LARGEST_IN_C and math.prod(_tiles(image)) * TILE**2 < 2 * math.prod(image))


def in_c(x: jax.Array, kernel: jax.Array, padding: Sequence[Sequence[int]]) -> bool:
    """Returns whether `conv` of these arguments runs in C: see `resnet_jax.ops.kernels`."""
    image = [n + sum(p) - 2 for n, p in zip(x.shape[1:3], padding, strict=True)]
    return _fits_c(x.shape[3], kernel.shape[3], image)


def conv(x: jax.Array, kernel: jax.Array, padding: Sequence[Sequence[int]]) -> jax.Array:
    """Convolves float32 `[b, h, w, i]` with `[3, 3, i, o]` to `[b, h + top + bottom - 2, w + left + right - 2, o]`."""
    height, width = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], padding, strict=True))
    tiles = _tiles((height, width))
    transformed = _transform_kernel(kernel)
    if in_c(x, kernel, padding):
        return kernels.winograd(x, transformed, padding)

    def of_block(x: jax.Array) -> jax.Array:
        places = _transform(_INPUT, _pad(x, padding, [n * TILE + 2 for n in tiles]), tiles)
        products = jax.lax.dot_general(places, transformed, (((2,), (1,)), ((0,), (0,))))
        return _transform_output(products, x.shape[0], tiles)[:, :height, :width]

    (blocks,) = _blocks([x], tiles, max(kernel.shape[2:]))
    out: jax.Array = of_block(blocks[0])[None] if len(blocks) == 1 else jax.lax.map(of_block, blocks)
    return out.reshape(-1, *out.shape[2:])[: x.shape[0]]


def kernel_gradient(g: jax.Array, x: jax.Array, padding: Sequence[Sequence[int]]) -> jax.Array:
    """Returns the kernel gradient, float32 `[3, 3, i, o]`, from the output gradient g."""
    tiles = _tiles(g.shape[1:3])
    if _fits_c(x.shape[3], g.shape[3], g.shape[1:3]):
        return kernels.winograd_kernel_gradient(g, x, padding)

    def of_block(g: jax.Array, x: jax.Array) -> jax.Array:
        places = _transform(_INPUT, _pad(x, padding, [n * TILE + 2 for n in tiles]), tiles)
        g = _pad(g, ((0, 0), (0, 0)), [n * TILE for n in tiles])
        products = _transform(_OUTPUT_TRANSPOSED, g, tiles)
        return jax.lax.dot_general(places, products, (((1,), (1,)), ((0,), (0,))))

    blocks = _blocks([g, x], tiles, max(g.shape[3], x.shape[3]))
    total = of_block(*(a[0] for a in blocks))
    if blocks[0].shape[0] > 1:
        total, _ = jax.lax.scan(lambda total, part: (total + of_block(*part), None), total, [a[1:] for a in blocks])
    total = total.reshape(_PLACES, _PLACES, *total.shape[1:])
    rows = _combine(_KERNEL_TRANSPOSED, [total[i] for i in range(_PLACES)])
    return _combine(_KERNEL_TRANSPOSED, [rows[:, j] for j in range(_PLACES)]).swapaxes(0, 1)
