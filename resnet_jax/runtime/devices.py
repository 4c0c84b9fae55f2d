"""Data parallelism over all devices of all processes; the only module that calls pmap."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'batch'  # the name of the mapped axis
Tree = TypeVar('Tree')


def parallel(
    function: Callable[..., object], in_axes: Sequence[int | None], donate_argnums: Sequence[int] = ()
) -> jax.stages.Wrapped:
    """Maps `function` over the devices, with `AXIS` as the mapped axis; returns the results of the first device.

    Args:
      in_axes: 0 for an argument with a leading axis of local devices, None for a replicated one.
      donate_argnums: arguments whose memory the call may reuse.
    """
    # pmap does not check that the results are the same on all devices: `function` must reduce them.
    mapped: jax.stages.Wrapped = jax.pmap(
        function, axis_name=AXIS, in_axes=tuple(in_axes), out_axes=None, donate_argnums=tuple(donate_argnums)
    )
    return mapped


def replicate(tree: Tree) -> Tree:
    """Places arrays on every local device with the sharding of pmap's results, so that pmap compiles only once."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    placed: Tree = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return placed


def device_positions(batch_size: int) -> np.ndarray:
    """Returns int32 `[local devices, batch_size / devices]`: each local device's indices into the global batch."""
    rows = np.arange(batch_size, dtype=np.int32).reshape(jax.device_count(), -1)
    first = jax.process_index() * jax.local_device_count()
    return rows[first : first + jax.local_device_count()]


def put(values: jax.Array, value: jax.Array, i: jax.Array) -> jax.Array:
    """Returns `values.at[i].set(value)`, written so that it does not lower to a scatter."""
    updated: jax.Array = jax.lax.dynamic_update_index_in_dim(values, value, i, 0)
    return updated


def compile_parallel(run: jax.stages.Wrapped, *arguments: object) -> jax.stages.Compiled | jax.stages.Wrapped:
    """Compiles a function returned by `parallel` for arguments like these.

    With several processes it returns `run` itself, which compiles on its first call: a function compiled ahead of time expects
    the arguments of all processes together, not those of this process.
    """
    return run.lower(*arguments).compile() if jax.process_count() == 1 else run


def options_for_init(key: jax.Array) -> dict[str, Any] | None:
    """Returns the options of `jax.jit` for a program that initialises a network.

    For ResNet-18's random numbers XLA:CPU takes 13 s at its default level and 4 s at this one; the numbers are the same.
    """
    # Inside eval_shape the key is abstract: nothing is compiled, and compiler options are not allowed.
    quick = jax.default_backend() == 'cpu' and not isinstance(key, jax.core.Tracer)
    return {'xla_backend_optimization_level': 1} if quick else None
