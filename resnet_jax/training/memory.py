"""Running out of memory: noticed before the first step where the compiler's own figures allow it."""

from pathlib import Path
from typing import Any

import jax

from resnet_jax.errors import ResourceError


def available_bytes() -> int | None:
    """Returns the free memory of the first local device, or of the machine if that is a CPU; None if nobody says."""
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
    try:  # a container's limit, where there is one
        group = Path('/sys/fs/cgroup')
        used = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
        cached = int(used['active_file']) + int(used['inactive_file'])  # given up when the room is needed
        limit, current = (int((group / name).read_text()) for name in ('memory.max', 'memory.current'))
        free = min(free, limit - current + cached)
    except (OSError, ValueError, KeyError):
        pass
    return free


def check_fits(compiled: Any, batch_size: int, unit: int) -> None:
    """Checks that a compiled step's scratch memory fits.

    Args:
      compiled: what `step.compile_parallel` returned; its arguments are on the device already.
      unit: what a batch size must be a multiple of.

    Raises:
      ResourceError: names a batch size that fits, if there is one, and the options that save memory.
    """
    if not hasattr(compiled, 'memory_analysis'):  # among several processes: not compiled yet
        return
    available, analysis = available_bytes(), compiled.memory_analysis()
    if available is None or analysis is None:
        return
    sharing = jax.local_device_count() if jax.default_backend() == 'cpu' else 1
    needed = analysis.temp_size_in_bytes * sharing
    if needed > available:
        raise out_of_memory(batch_size, int(0.9 * batch_size * available / needed) // unit * unit, needed, available)


def out_of_memory(batch_size: int, fitting: int, needed: int = 0, available: int = 0) -> ResourceError:
    """Returns the error, with the batch size that would fit if it is not 0."""
    figures = f' (about {needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB free)' if needed else ''
    smaller = f'--config.batch_size={fitting} should fit; ' if fitting else ''
    return ResourceError(
        f'out of device memory at batch_size {batch_size}{figures}; {smaller}'
        '--config.gradient_accumulation_steps=2 (or more) and --config.dtype=bfloat16 save memory too'
    )
