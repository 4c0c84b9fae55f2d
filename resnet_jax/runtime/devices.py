"""Data parallelism over all devices of all processes; the only module that calls pmap."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import one_line
from resnet_jax.runtime import memory

AXIS = 'batch'  # the name of the mapped axis
Tree = TypeVar('Tree')

# The operations that XLA:GPU records in CUDA graphs ("command buffers"): XLA's defaults, which the option replaces, and also
# convolutions and loops. Otherwise the host launches twice per convolution and waits at each step for the loop's condition.
CUDA_GRAPH: dict[str, str | bool] = {
    'xla_gpu_enable_command_buffer': (
        'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,CONVOLUTION,WHILE'
    )
}

# The arrays that steps read on the devices, by name: 'image', 'label', ...
DeviceData = dict[str, jax.Array | np.ndarray | np.int32]

logger = logging.getLogger(__name__)


def parallel(
    function: Callable[..., object],
    in_axes: Sequence[int | None],
    donate_argnums: Sequence[int] = (),
    devices: Sequence[jax.Device] | None = None,
) -> jax.stages.Wrapped:
    """Maps `function` over the devices, with `AXIS` as the mapped axis; returns the results of the first device.

    Args:
      in_axes: 0 for an argument with a leading axis of local devices, None for a replicated one.
      donate_argnums: arguments whose memory the call may reuse.
      devices: the devices to compile for; None for all of them.
    """
    # pmap does not check that the results are equal on all devices: `function` must reduce them.
    mapped: jax.stages.Wrapped = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=tuple(in_axes),
        out_axes=None,
        donate_argnums=tuple(donate_argnums),
        devices=devices,
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


def compile_parallel(
    run: jax.stages.Wrapped, *arguments: object, cuda_graph: bool = False
) -> jax.stages.Compiled | jax.stages.Wrapped:
    """Compiles a function returned by `parallel` for arguments like `arguments`.

    With several processes, returns `run` itself, which compiles on its first call: a function compiled ahead of time expects
    the arguments of all processes together, not only those of this process.

    Args:
      cuda_graph: on a GPU, make the whole program one CUDA graph, if driver and XLA support it: see `CUDA_GRAPH`. This is tried
        with the arguments, which should run no steps. The first argument is copied, because the program may reuse its memory.
    """
    if jax.process_count() > 1:
        return run
    lowered = run.lower(*arguments)
    if cuda_graph and jax.default_backend() == 'gpu':
        try:
            compiled = lowered.compile(compiler_options=CUDA_GRAPH)
            jax.block_until_ready(compiled(jax.tree.map(jnp.copy, arguments[0]), *arguments[1:]))
            return compiled
        except RuntimeError as error:
            logger.info('No CUDA graph of all steps, which costs some speed: %s', one_line(error))
    compiled = lowered.compile()
    memory.return_free_memory()
    return compiled


def options_for_init(key: jax.Array) -> dict[str, int] | None:
    """Returns the options of `jax.jit` for a program that initialises a network.

    To compile ResNet-18's random numbers, XLA:CPU takes 13 s at its default level and 4 s at this level; the numbers are equal.
    """
    # Inside eval_shape the key is abstract: nothing is compiled, and compiler options are not allowed.
    quick = jax.default_backend() == 'cpu' and not isinstance(key, jax.core.Tracer)
    return {'xla_backend_optimization_level': 1} if quick else None
