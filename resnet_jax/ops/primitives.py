"""Helpers for primitives whose operands have varying axes or explicit shardings.

Under `shard_map` the type of an array says over which axes of the mesh it varies. In a mesh with axes of
`AxisType.Explicit`, the default of `jax.make_mesh`, the type says how the array is divided among the devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

Aval = jax.core.ShapedArray


def result_types(function: Callable[..., Any], *avals: Aval, spec: Sequence[Any] = ()) -> list[Aval]:
    """Returns the types of a function's results, for arguments that vary over equal axes.

    Args:
      spec: how the first axes of the results are divided among devices.
    """
    avals_out = jax.make_jaxpr(function)(*(Aval(aval.shape, aval.dtype) for aval in avals)).out_avals
    mesh = avals[0].sharding.mesh

    def divided(aval: Aval) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*spec, *[None] * (aval.ndim - len(spec))))

    # The gradients are transposes of functions of placeholders, and JAX does not know that placeholders vary.
    types = [Aval(aval.shape, aval.dtype) for aval in avals_out]
    return types if mesh.empty else [aval.update(sharding=divided(aval), manual_axis_type=avals[0].mat) for aval in types]


def spec_of(array: Any) -> PartitionSpec:
    """Returns the PartitionSpec of an array, or of the placeholder for one in a transposition."""
    aval: Any = getattr(array, 'aval', None) or jax.typeof(array)
    return PartitionSpec(*aval.sharding.spec)


def divided_like(array: jax.Array, other: Any) -> jax.Array:
    """Returns the array, divided among devices like `other`."""
    return array if spec_of(array) == spec_of(other) else jax.sharding.reshard(array, spec_of(other))


def lowering(function: Callable[..., Any], *, multiple_results: bool) -> Callable[..., Any]:
    """Returns a lowering rule that calls `function` on arrays without varying axes.

    With varying axes, JAX would mark the other arrays in `function` as varying too, and sum their gradients over the devices.
    """
    rule = mlir.lower_fun(function, multiple_results=multiple_results)

    def lower(context: mlir.LoweringRuleContext, *values: Any, **parameters: object) -> Any:
        avals: Sequence[Any] = context.avals_in
        plain = [Aval(aval.shape, aval.dtype) for aval in avals]
        return rule(context.replace(avals_in=plain), *values, **parameters)

    return lower


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Marks every array as varying over the union of the axes over which the arrays vary.

    The transpose sums, over the devices, the gradient of an array that was equal on all devices.
    """
    own = [jax.typeof(array).mat.varying for array in arrays]
    union = frozenset[str]().union(*own)
    return [
        jax.lax.pcast(array, tuple(sorted(union - axes)), to='varying') if union - axes else array
        for array, axes in zip(arrays, own, strict=True)
    ]
