"""The two sums of BatchNorm, on a GPU in one reduction: XLA would finish each sum in a separate kernel.

There are a primitive and its transpose, so that every transformation works, in any order: the sums of two arrays over all axes
but the last, and the copies of two vectors to all places of these axes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from resnet_jax.ops.primitives import lowering, result_types, spec_of, varying_alike

Arrays = Sequence[jax.Array]


def _primitive(name: str, default: Callable[..., Arrays], cpu: Callable[..., Arrays]) -> jax.extend.core.Primitive:
    primitive = jax.extend.core.Primitive(name)
    primitive.multiple_results = True

    def abstract(*arrays: jax.core.ShapedArray, **parameters: Any) -> list[jax.core.ShapedArray]:
        return result_types(functools.partial(cpu, **parameters), *arrays, spec=parameters.get('spec', ()))

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(lambda *arrays, **parameters: _jitted(cpu, tuple(parameters.items()))(*arrays))
    mlir.register_lowering(primitive, lowering(default, multiple_results=True))
    mlir.register_lowering(primitive, lowering(cpu, multiple_results=True), platform='cpu')
    return primitive


@functools.cache
def _jitted(function: Callable[..., Arrays], parameters: tuple[tuple[str, object], ...]) -> jax.stages.Wrapped:
    return jax.jit(functools.partial(function, **dict(parameters)))


def _sums(*arrays: jax.Array, axes: tuple[int, ...]) -> Arrays:
    return [array.sum(axes) for array in arrays]


def _sums_at_once(*arrays: jax.Array, axes: tuple[int, ...]) -> Arrays:
    zeros = [jnp.zeros((), array.dtype) for array in arrays]
    added: Arrays = jax.lax.reduce(list(arrays), zeros, lambda xs, ys: [x + y for x, y in zip(xs, ys, strict=True)], axes)
    return added


def _copies(*vectors: jax.Array, shape: tuple[int, ...], axes: tuple[int, ...], spec: PartitionSpec) -> Arrays:
    others = [axis for axis in range(len(shape)) if axis not in axes]
    return [jax.lax.broadcast_in_dim(vector, shape, others) for vector in vectors]


_sums_p = _primitive('sums', _sums_at_once, _sums)
_copies_p = _primitive('copies', _copies, _copies)


def sums(*arrays: jax.Array) -> Arrays:
    """Returns the sums of float32 or float64 arrays of one shape `[..., channels]` over all axes but the last, `[channels]`."""
    added: Arrays = _sums_p.bind(*varying_alike(*arrays), axes=tuple(range(arrays[0].ndim - 1)))
    return added


def copies(like: jax.Array, *vectors: jax.Array) -> Arrays:
    """Returns arrays with the shape of `like` and the vectors `[channels]` at each place; the transpose of `sums`."""
    copied: Arrays = _copies_p.bind(
        *varying_alike(*vectors), shape=like.shape, axes=tuple(range(like.ndim - 1)), spec=spec_of(like)
    )
    return copied


def _only_for_linear(gradients: Arrays, inputs: Sequence[object]) -> list[jax.Array | None]:
    return [gradient if ad.is_undefined_primal(x) else None for gradient, x in zip(gradients, inputs, strict=True)]


def _transposed_sums(
    gradients: Sequence[object], *arrays: jax.Array | ad.UndefinedPrimal, axes: tuple[int, ...]
) -> list[jax.Array | None]:
    like = next(x for x in arrays if isinstance(x, ad.UndefinedPrimal))
    gradients = [ad.instantiate_zeros(gradient) for gradient in gradients]
    return _only_for_linear(_copies_p.bind(*gradients, shape=like.aval.shape, axes=axes, spec=spec_of(like)), arrays)


def _transposed_copies(
    gradients: Sequence[object], *vectors: object, shape: tuple[int, ...], axes: tuple[int, ...], spec: PartitionSpec
) -> list[jax.Array | None]:
    gradients = [ad.instantiate_zeros(gradient) for gradient in gradients]
    return _only_for_linear(_sums_p.bind(*gradients, axes=axes), vectors)


def _batch_sums(arrays: Arrays, places: Sequence[int | None], *, axes: tuple[int, ...]) -> tuple[Arrays, list[int]]:
    arrays, axes = _at_front(arrays, places), tuple(axis + 1 for axis in axes)
    return _sums_p.bind(*arrays, axes=axes), [0] * len(arrays)


def _batch_copies(
    vectors: Arrays, places: Sequence[int | None], *, shape: tuple[int, ...], axes: tuple[int, ...], spec: PartitionSpec
) -> tuple[Arrays, list[int]]:
    vectors, axes = _at_front(vectors, places), tuple(axis + 1 for axis in axes)
    spec = PartitionSpec(None, *spec)
    return _copies_p.bind(*vectors, shape=(len(vectors[0]), *shape), axes=axes, spec=spec), [0] * len(vectors)


def _at_front(arrays: Arrays, places: Sequence[int | None]) -> Arrays:
    size = next(array.shape[place] for array, place in zip(arrays, places, strict=True) if place is not None)
    return [
        jnp.broadcast_to(array, (size, *array.shape)) if place is None else jnp.moveaxis(array, place, 0)
        for array, place in zip(arrays, places, strict=True)
    ]


ad.deflinear2(_sums_p, _transposed_sums)
ad.deflinear2(_copies_p, _transposed_copies)
batching.primitive_batchers[_sums_p] = _batch_sums
batching.primitive_batchers[_copies_p] = _batch_copies
