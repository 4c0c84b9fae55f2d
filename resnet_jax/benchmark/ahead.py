"""Compiles a config's training step for a GPU that this machine does not have, and counts the work of the step there.

XLA's plugin for CUDA compiles from a description of a GPU, without a GPU or driver. Nothing runs, so nothing is tuned: XLA does
not ask cuDNN for algorithms, and the scratch memory of convolutions is missing.
"""

import string
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from resnet_jax import data
from resnet_jax.benchmark.hlo import SMALL, Device, Kernel, host_launches, slow_operations, step_kernels
from resnet_jax.benchmark.measure import on_random_data
from resnet_jax.benchmark.worker import Worker
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import AXIS, CUDA_GRAPH
from resnet_jax.training.experiment import Experiment, create_experiment
from resnet_jax.training.program import create_train_steps
from resnet_jax.typing import Json, PyTree, Row


class _Facts(NamedTuple):
    name: str
    bandwidth: int  # bytes per second
    memory: int  # bytes
    memory_clock: int  # kHz


# From NVIDIA's data sheets of the SXM modules; 989 TFLOP/s in bfloat16 without sparsity for both.
_GPUS = {
    'h100': _Facts('NVIDIA H100 80GB HBM3', 3_352_320_000_000, 84_942_979_072, 2_619_000),
    'h200': _Facts('NVIDIA H200 141GB HBM3e', 4_800_000_000_000, 151_397_597_184, 3_750_000),
}
_FLOPS = 989e12


class Ahead:
    """The side of a `Worker` that compiles; its process needs JAX_PLATFORMS=cpu, because the plugin looks for a driver."""

    def count(self, config: Json, gpu: str) -> Row:
        """Returns the work of one training step of a config on a GPU, one of `_GPUS`: see `_summary`.

        Raises:
          ConfigError: the plugin is not installed.
        """
        if find_spec('jax_plugins') is None or find_spec('jax_plugins.xla_cuda12') is None:
            raise ConfigError(
                "counting for a GPU needs XLA's plugin for CUDA; expected it: pip install 'jax-cuda12-plugin' (480 MB)"
            )
        checked = TrainConfig.from_mapping(config)
        experiment = create_experiment(checked, data.dataset_info(checked.dataset))
        facts = _GPUS[gpu]
        with tempfile.TemporaryDirectory() as folder:
            compiled = _compile(experiment, facts, folder)
            (thunks,) = Path(folder).glob('*thunk_sequence_after_thunk_passes.txt')
            launches = host_launches(thunks.read_text())
        memory = compiled.memory_analysis()
        due = 1 / checked.proxy_update_every if experiment.proxy else 1.0
        device, text = Device(facts.bandwidth, _FLOPS), compiled.as_text() or ''
        return {
            'gpu': gpu,
            **_summary(step_kernels(text), device),
            'floor_seconds_average': _floor(step_kernels(text, due), device),
            'slow_operations': slow_operations(text),
            'host_launches': launches,
            'temporary_bytes': memory.temp_size_in_bytes if memory else None,
        }


def _compile(experiment: Experiment, facts: _Facts, folder: str) -> jax.stages.Compiled:
    template = resources.files('resnet_jax.benchmark').joinpath('hopper.txtpb').read_text()
    target = string.Template(template).substitute(facts._asdict())
    topology = topologies.get_topology_desc(platform='cuda', target_config=target, topology='1x1x1')
    mesh = Mesh(np.array(topology.devices), (AXIS,))

    def placed(tree: PyTree, *axes: str) -> PyTree:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    def integers(*sizes: int, dtype: DTypeLike = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    size, batch_size = experiment.num_examples, experiment.config.batch_size
    images = {'image': integers(size, *experiment.info.image_shape, dtype=np.uint8), 'label': integers(size)}
    order = integers(experiment.steps_per_epoch, batch_size)
    state, positions = jax.eval_shape(experiment.create_state), integers(1, batch_size)
    rest = images, order, integers(2, dtype=np.uint32), integers(), integers()
    run = create_train_steps(experiment, devices=topology.devices)
    lowered = run.lower(placed(state), placed(positions, AXIS), *placed(rest))
    return lowered.compile(compiler_options={**CUDA_GRAPH, 'xla_dump_to': folder})


def _floor(kernels: Sequence[Kernel], device: Device) -> float:
    return sum(kernel.seconds(device) for kernel in kernels)


def _summary(kernels: Sequence[Kernel], device: Device) -> Row:
    """Returns 'kernels', 'small_kernels' (they move less than 1 MiB), 'bytes_read', 'bytes_written', 'floor_seconds' and
    'groups', which has these values for each part of the step."""

    def of(chosen: Sequence[Kernel]) -> Row:
        return {
            'kernels': len(chosen),
            'small_kernels': sum(kernel.read + kernel.written < SMALL for kernel in chosen),
            'bytes_read': sum(kernel.read for kernel in chosen),
            'bytes_written': sum(kernel.written for kernel in chosen),
            'flops': sum(kernel.flops for kernel in chosen),
            'floor_seconds': _floor(chosen, device),
        }

    names = dict.fromkeys(kernel.group for kernel in kernels)
    groups = {name: of([kernel for kernel in kernels if kernel.group == name]) for name in names}
    ordered = sorted(groups.items(), key=lambda item: -item[1]['floor_seconds'])
    return {**of(kernels), 'groups': dict(ordered)}


def measure_ahead(name: str, config: Json, gpu: str, progress: Callable[[str], None]) -> Row:
    """Returns the result of `Ahead.count` for a config, with its name; compiling a step takes half a minute or more."""
    progress(f'{name}: compiling the training step for an {gpu.upper()}')
    with Worker('ahead', {'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '2'}) as worker:  # 2: only XLA's errors
        counted = worker('count', config=on_random_data(config), gpu=gpu)
    return {'name': name, **{key: config[key] for key in ('model', 'dtype', 'batch_size')}, **counted}


def table(row: Row) -> str:
    """Returns a table of the parts of the step, with lines for other values."""
    header = ('part of the step', 'kernels', 'GB read', 'GB written', 'TFLOP', 'floor ms')
    lines = [header]
    for part, counts in [*row['groups'].items(), ('all', row)]:
        large = f'{counts["bytes_read"] / 1e9:.2f}', f'{counts["bytes_written"] / 1e9:.2f}', f'{counts["flops"] / 1e12:.2f}'
        lines.append((part, str(counts['kernels']), *large, f'{1000 * counts["floor_seconds"]:.2f}'))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    text = [
        '  '.join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    ]
    more = f'{row["small_kernels"]} of the kernels move less than 1 MiB; {row["host_launches"]} launches by the host; '
    more += f'{row["temporary_bytes"] / 2**20:,.0f} MiB of temporary memory'
    if row['floor_seconds_average'] < row['floor_seconds']:
        more += f'; {1000 * row["floor_seconds_average"]:.2f} ms on average over the steps with and without the branch'
    slow = ', '.join(f'{count} {name}' for name, count in row['slow_operations'].items() if count)
    return '\n'.join([*text, more, *([slow] if slow else [])])
