"""RandAugment and TrivialAugment: operations drawn at random for each image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import operations
from resnet_jax.data.augment.operations import Matrix, Operation, operation, rotation, shear, transform, translation

MAGNITUDES = 31  # number of magnitudes of each operation, from 0 (nothing changes) to 30

Both = tuple[Operation, Operation]  # both directions of an operation; equal if it has no direction


def random_operations(key: jax.Array, image: jax.Array, table: Operation, count: int) -> jax.Array:
    """Applies `count` operations of a table, each drawn with replacement, one after the other.

    Args:
      image: uint8 `[height, width, channels]`, with 1 or 3 channels.
      table: operations with one leading axis, as `randaugment` and `trivialaugment` return it.
    """
    rows = table.matrix.shape[0]

    def apply(place: int | jax.Array, image: jax.Array) -> jax.Array:
        row = jax.random.randint(jax.random.fold_in(key, place), (), 0, rows)
        return transform(image, Operation(*(jnp.asarray(leaf)[row] for leaf in table)))

    # One after the other in a loop, so that the compilation takes no longer than for one.
    return apply(0, image) if count == 1 else jax.lax.fori_loop(0, count, apply, image)


def randaugment(height: int, width: int, magnitude: int) -> Operation:
    """Returns the table of RandAugment (Cubuk et al., arXiv:1909.13719), with torchvision's 14 operations and ranges.

    Args:
      magnitude: from 0 to 30, the same for every operation.
    """
    return _flat([each[magnitude : magnitude + 1] for each in randaugment_space(height, width)])


def trivialaugment(height: int, width: int) -> Operation:
    """Returns the table of TrivialAugment (Müller and Hutter, arXiv:2103.10158), in its wide space, with all magnitudes."""
    return _flat(trivialaugment_space(height, width))


def randaugment_space(height: int, width: int) -> list[list[Both]]:
    """Returns the operations of RandAugment: see `_space`."""
    return _space(height, width, shears=0.3, shifts=(150 / 331 * width, 150 / 331 * height), degrees=30, factors=0.9, bits=4)


def trivialaugment_space(height: int, width: int) -> list[list[Both]]:
    """Returns the operations of TrivialAugment: see `_space`."""
    return _space(height, width, shears=0.99, shifts=(32, 32), degrees=135, factors=0.99, bits=6)


def _space(
    height: int, width: int, *, shears: float, shifts: tuple[float, float], degrees: float, factors: float, bits: int
) -> list[list[Both]]:
    """Returns 14 operations, each at 31 magnitudes in both directions, in torchvision's order.

    The operations: identity, shear x and y, translate x and y, rotate, brightness, color, contrast, sharpness, posterize,
    solarize, autocontrast, equalize.

    Args:
      shears, degrees, factors: largest shear, rotation, and change of the factor of brightness, color, contrast and sharpness.
      shifts: largest translation in pixels, horizontally and vertically; a fraction is rounded down to whole pixels.
      bits: largest number of bits that posterize removes.
    """

    def moves(largest: float, matrix: Callable[[float], Matrix]) -> list[Both]:
        return [(operation(matrix=matrix(m)), operation(matrix=matrix(-m))) for m in magnitudes(0.0, largest)]

    def factors_of(kind: int) -> list[Both]:
        return [(operation(kind, 1.0 + m), operation(kind, 1.0 - m)) for m in magnitudes(0.0, factors)]

    def without_direction(kind: int, values: np.ndarray | None = None) -> list[Both]:
        return [(operation(kind, value),) * 2 for value in (np.zeros(MAGNITUDES) if values is None else values)]

    return [
        without_direction(operations.MOVE),
        moves(shears, lambda m: shear(x=m)),
        moves(shears, lambda m: shear(y=m)),
        moves(shifts[0], lambda m: translation(x=int(m))),
        moves(shifts[1], lambda m: translation(y=int(m))),
        moves(degrees, lambda m: rotation(m, height, width)),
        *(factors_of(kind) for kind in (operations.BRIGHTNESS, operations.COLOR, operations.CONTRAST, operations.SHARPNESS)),
        without_direction(operations.POSTERIZE, 8 - np.round(np.arange(MAGNITUDES) / ((MAGNITUDES - 1) / bits))),
        without_direction(operations.SOLARIZE, magnitudes(255.0, 0.0)),
        without_direction(operations.AUTOCONTRAST),
        without_direction(operations.EQUALIZE),
    ]


def magnitudes(first: float, last: float) -> np.ndarray:
    """Returns 31 equally spaced values, float64 `[31]`."""
    return np.linspace(first, last, MAGNITUDES)


def _flat(space: list[list[Both]]) -> Operation:
    """Returns all operations as one table."""
    rows = [each for of_operation in space for both in of_operation for each in both]
    table: Operation = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return table
