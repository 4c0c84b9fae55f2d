"""Detects a lack of memory before the first step, from the compiler's figures."""

import contextlib
import ctypes
from pathlib import Path
from typing import Protocol

import jax

from resnet_jax.errors import OutOfMemoryError
from resnet_jax.runtime import distributed


def available_bytes() -> int | None:
    """Returns the free memory of the first local device, or of the machine if it is a CPU; None if unknown."""
    device = jax.local_devices()[0]
    if device.platform != 'cpu':
        stats = device.memory_stats() or {}
        return stats['bytes_limit'] - stats['bytes_in_use'] if 'bytes_limit' in stats else None
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return None
    kilobytes = {line.split(':')[0]: int(line.split()[1]) for line in lines}
    free = kilobytes['MemAvailable'] * 1024
    try:  # the limit of a container, if there is one
        group = Path('/sys/fs/cgroup')
        used = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
        cached = int(used['active_file']) + int(used['inactive_file'])  # freed when memory is needed
        limit, current = (int((group / name).read_text()) for name in ('memory.max', 'memory.current'))
        free = min(free, limit - current + cached)
    except (OSError, ValueError, KeyError):
        pass
    return free


def return_free_memory() -> None:
    """Gives memory that the compiler has freed back to the system, if the C library is glibc.

    glibc keeps it for small blocks, while a step's arrays get new memory. After compiling ResNet-20's training step on a CPU
    this is 500 MiB.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def fits_on_devices(size: int, limit_gib: float = 0.0) -> bool:
    """Returns whether data of `size` bytes may stay on every device; all processes get the same answer.

    Args:
      limit_gib: the largest allowed size in GiB; 0 for half of the free memory.
    """
    if limit_gib:
        return size <= limit_gib * 2**30
    available = available_bytes()
    sharing = jax.local_device_count() if jax.default_backend() == 'cpu' else 1
    fits = available is None or 2 * size * sharing <= available
    return fits if jax.process_count() == 1 else not distributed.broadcast(not fits)


class State(Protocol):
    """A state whose leaves include parameters."""

    @property
    def params(self) -> object:
        """The parameters."""
        ...


def check_state_fits(state: State, name: str) -> dict[str, int | None]:
    """Checks, before allocation, that a network's parameters, their gradients and the optimizer's state fit.

    Args:
      state: a TrainState of `jax.ShapeDtypeStruct`.
      name: name of the network.

    Returns:
      'state_bytes', 'gradient_bytes' and 'available_bytes' (None if unknown).

    Raises:
      OutOfMemoryError: they do not fit with any batch size.
    """
    size, gradients = (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(x)) for x in (state, state.params))
    available = available_bytes()
    if available is not None and size + gradients > available:
        raise OutOfMemoryError(
            f'out of device memory: the parameters of {name}, their gradients and the state of the optimizer take '
            f'{(size + gradients) / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; use a smaller network'
        )
    return {'state_bytes': size, 'gradient_bytes': gradients, 'available_bytes': available}


def check_fits(compiled: jax.stages.Compiled | jax.stages.Wrapped, batch_size: int, unit: int) -> int | None:
    """Checks that a compiled step's scratch memory fits.

    Args:
      compiled: the result of `devices.compile_parallel`; its arguments are already on the device.
      unit: the batch size must be a multiple of this.

    Returns:
      The scratch memory in bytes, including gradients; None if unknown.

    Raises:
      OutOfMemoryError: the memory does not fit; names a batch size that fits, if there is one, and options that save memory.
    """
    analysis = compiled.memory_analysis() if hasattr(compiled, 'memory_analysis') else None
    if analysis is None:  # e.g. with several processes, where the step is not compiled yet
        return None
    available = available_bytes()
    sharing = jax.local_device_count() if jax.default_backend() == 'cpu' else 1
    needed: int = analysis.temp_size_in_bytes * sharing
    if available is not None and needed > available:
        raise out_of_memory(batch_size, int(0.9 * batch_size * available / needed) // unit * unit, needed, available)
    return needed


def out_of_memory(batch_size: int, fitting: int, needed: int = 0, available: int = 0) -> OutOfMemoryError:
    """Returns the error, which suggests the batch size `fitting` unless that is 0."""
    figures = f' (about {needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB free)' if needed else ''
    smaller = f'batch_size={fitting} should fit; ' if fitting else ''
    return OutOfMemoryError(
        f'out of device memory at batch_size {batch_size}{figures}; {smaller}'
        'gradient_accumulation_steps=2 (or more) and dtype=bfloat16 save memory too'
    )
