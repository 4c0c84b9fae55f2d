"""What the primitives here share under `shard_map`, whose types say over which axes of the mesh an array varies."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.interpreters import mlir

Aval = jax.core.ShapedArray


def result_types(function: Callable[..., Any], *avals: Aval) -> list[Aval]:
    """Returns the types of a function's results, for arguments that vary over the same axes."""
    avals_out = jax.make_jaxpr(function)(*avals).out_avals
    # The gradients are transposes of functions of placeholders, of which JAX does not know that they vary.
    return [aval.update(manual_axis_type=avals[0].mat) for aval in avals_out]


def lowering(function: Callable[..., Any], *, multiple_results: bool) -> Callable[..., Any]:
    """Returns the rule that lowers a primitive to a function, which sees arrays of which nothing is said to vary.

    If it saw arrays that vary, JAX would make the others in it vary too, and their gradients would be added up over devices.
    """
    rule = mlir.lower_fun(function, multiple_results=multiple_results)

    def lower(context: mlir.LoweringRuleContext, *values: Any, **parameters: object) -> Any:
        avals: Sequence[Any] = context.avals_in
        plain = [Aval(aval.shape, aval.dtype) for aval in avals]
        return rule(context.replace(avals_in=plain), *values, **parameters)

    return lower


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Returns arrays that all vary over every axis over which any of them does.

    Its transpose adds up, over the devices, the gradient of an array that was the same on all of them.
    """
    own = [jax.typeof(array).mat.varying for array in arrays]
    union = frozenset[str]().union(*own)
    return [
        jax.lax.pcast(array, tuple(sorted(union - axes)), to='varying') if union - axes else array
        for array, axes in zip(arrays, own, strict=True)
    ]
