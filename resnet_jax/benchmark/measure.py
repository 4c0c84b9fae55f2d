"""Measures one config: speed of training and evaluation, compilation, memory, and the ratio to PyTorch."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from resnet_jax.benchmark.command import measure_startup
from resnet_jax.benchmark.worker import Worker
from resnet_jax.data import available_datasets
from resnet_jax.errors import ConfigError
from resnet_jax.typing import Json, Row

# After a request a thread pool spins for some milliseconds; the other side waits until the pool sleeps.
_PAUSE = 0.05


@dataclasses.dataclass(frozen=True)
class Effort:
    """The duration and number of measurements.

    Attributes:
      rounds: number of measurements of each side, in the order A B A B.
      seconds: approximate duration of one measurement; at least one step.
      steps: which of 'train' and 'eval' to measure.
    """

    rounds: int = 5
    seconds: float = 1.0
    steps: Sequence[str] = ('train', 'eval')


def on_random_data(config: Json) -> Row:
    """Returns the config with random data in the shape of its data set; random data need no files."""
    name = config['dataset']
    synthetic = f'synthetic_{name}'
    return {**config, 'dataset': synthetic if synthetic in available_datasets() else name}


def summary(values: Sequence[float]) -> Row:
    """Returns the median, lowest and highest value and the number of values."""
    return {'median': statistics.median(values), 'low': min(values), 'high': max(values), 'n': len(values)}


def interleave(
    ours: Callable[[], float], theirs: Callable[[], float] | None, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Runs A B A B ... and returns the values of A, the values of B and the ratio A / B of each pair."""
    first, second = [], []
    for _ in range(rounds):
        time.sleep(_PAUSE)
        first.append(ours())
        if theirs:
            time.sleep(_PAUSE)
            second.append(theirs())
    return first, second, [a / b for a, b in zip(first, second, strict=False)]


def measure(
    name: str,
    config: Json,
    *,
    effort: Effort,
    peer: bool = False,
    environment: Mapping[str, str] | None = None,
    startup: bool = False,
    variants: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Row:
    """Measures a config in separate processes, on the same kind of device as this process uses.

    Args:
      config: a checked config from `TrainConfig.to_dict`.
      peer: also measure PyTorch and the ratio.
      environment: environment variables of these processes, such as JAX_NUM_CPU_DEVICES.
      startup: also start the train command, twice: see `measure_startup`.
      variants: words, such as 'bfloat16' or 'channels_last', that PyTorch's variants must contain; uses the fastest of these.

    Returns:
      A row of the report, with versions and hardware.

    Raises:
      UserError: the config does not fit the devices, PyTorch is missing or has no such network, or memory is exhausted.
    """
    config = on_random_data(config)
    row: Row = {'name': name, **{key: config[key] for key in _SHOWN}}
    environment = environment or {}
    if startup:
        row['startup'] = measure_startup(config, environment, progress=lambda line: progress(f'{name}: {line}'))
    # Two processes share the GPU, so neither may take three quarters of its memory, JAX's default.
    settings = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.45'} if peer else {}
    with Worker('ours', {**settings, **environment}, config=config) as ours:
        facts = row['facts'] = ours('describe')
        platform = facts['environment']['platform']
        row['compile'] = {phase: ours('compile', phase=phase) for phase in effort.steps}
        for phase, compiled in row['compile'].items():
            progress(f'{name}: {phase} step compiled in {compiled["seconds"]:.1f} s{_from_cache(compiled)}')
        size, seconds = (2048, 1.0) if platform == 'cpu' else (8192, 1.0)
        seconds = min(seconds, effort.seconds)
        size = size if effort.seconds >= 0.5 else 256
        row['matrix_products'] = {'ours': ours('matrix_products', size=size, seconds=seconds)}
        row['memory_rate'] = ours('memory_rate', size=2**28 if effort.seconds >= 0.5 else 2**20, seconds=seconds)
        if not peer:
            _measure_steps(row, config, ours, None, effort, progress)
        else:
            kwargs = {'config': config, 'device': 'cuda' if platform in ('gpu', 'cuda') else 'cpu'}
            with Worker('torch', environment, **kwargs) as torch:
                row['torch'] = torch('describe')
                _choose(row['torch'], variants)
                row['matrix_products']['torch'] = torch('matrix_products', size=size, seconds=seconds)
                _measure_steps(row, config, ours, torch, effort, progress)
                row['torch']['peak_memory'] = torch('peak_memory')
                row['idle'] = {'ours': ours.idle, 'torch': torch.idle}
        row['peak_memory'] = ours('peak_memory')
    return row


_SHOWN = ('model', 'dataset', 'dtype', 'batch_size', 'eval_batch_size', 'optimizer')


def _choose(torch: Row, words: Sequence[str]) -> None:
    """Keeps only PyTorch's variants that contain all the words.

    Raises:
      ConfigError: no variant does.
    """
    chosen = [variant for variant in torch['variants'] if {*words} <= {*variant.split()}]
    if not chosen:
        raise ConfigError(f'no variant of the PyTorch peer with {", ".join(words)}; expected words of {torch["variants"]}')
    torch['variants'] = chosen


def _from_cache(compiled: Row) -> str:
    return ', read from the persistent cache' if compiled['from_cache'] else ''


def _measure_steps(
    row: Row, config: Json, ours: Worker, torch: Worker | None, effort: Effort, progress: Callable[[str], None]
) -> None:
    """Adds 'train' and 'eval' to the row.

    Raises:
      ConfigError: no variant of PyTorch runs here.
    """
    peak = max(rates[config['dtype']] for rates in row['matrix_products'].values())
    for phase in effort.steps:
        work = row['facts'][f'{phase}_multiply_adds']
        images = config['batch_size'] if phase == 'train' else row['facts']['eval_batch_size']

        def speed(worker: Worker, variant: str, phase: str = phase, images: int = images) -> Callable[[], float]:
            worker(phase, steps=1, variant=variant)
            seconds = worker(phase, steps=1, variant=variant)
            steps = max(1, min(1000, int(effort.seconds / seconds)))
            if steps > 2:  # a single step is slower than one of many steps
                steps = max(1, min(2000, int(effort.seconds * steps / worker(phase, steps=steps, variant=variant))))

            def once() -> float:
                worker(phase, steps=1, variant=variant)  # not timed: the step after a pause is slower, and a run has no pauses
                seconds: float = worker(phase, steps=steps, variant=variant)
                return images * steps / seconds

            return once

        variant, other = '', None
        if torch:
            candidates = {}
            for candidate in row['torch']['variants']:
                try:
                    candidates[candidate] = speed(torch, candidate)
                except ConfigError as error:
                    progress(f'{row["name"]}: PyTorch {phase} {candidate} is left out: {error}')
            if not candidates:
                raise ConfigError('no variant of the PyTorch peer runs here; expected one that does, such as eager')
            speeds: dict[str, list[float]] = {candidate: [] for candidate in candidates}
            for _ in range(min(3, effort.rounds) if len(candidates) > 1 else 0):  # interleaved, like all comparisons
                for candidate, measured in candidates.items():
                    speeds[candidate].append(measured())
            for candidate, values in speeds.items():
                if values:
                    progress(f'{row["name"]}: PyTorch {phase} {candidate}: {statistics.median(values):,.0f} images/s')
            variant = max(candidates, key=lambda candidate: statistics.median(speeds[candidate] or [0.0]))
            other = candidates[variant]
            torch('forget', phase=phase, keep=variant)
        first, second, ratios = interleave(speed(ours, ''), other, effort.rounds)
        row[phase] = {'images_per_second': summary(first)}
        row[phase]['multiply_adds_per_second'] = work * row[phase]['images_per_second']['median']
        row[phase]['share_of_matrix_product'] = row[phase]['multiply_adds_per_second'] / peak
        steps_per_second = row[phase]['images_per_second']['median'] / images
        row[phase]['share_of_memory_rate'] = row['compile'][phase]['step_bytes'] * steps_per_second / row['memory_rate']
        line = f'{row["name"]}: {phase} {row[phase]["images_per_second"]["median"]:,.0f} images/s'
        if torch:
            row[phase]['torch'] = {'variant': variant, 'images_per_second': summary(second)}
            row[phase]['ratio'] = summary(ratios)
            line += (
                f', PyTorch {row[phase]["torch"]["images_per_second"]["median"]:,.0f}, ratio {statistics.median(ratios):.2f}'
            )
        progress(line)


def cpu_environment(devices: int) -> dict[str, str]:
    """Returns the environment of a process with this number of CPU devices."""
    return {'JAX_NUM_CPU_DEVICES': str(devices), 'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', 'cpu')}
