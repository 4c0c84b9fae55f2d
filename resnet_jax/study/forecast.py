"""Estimates the remaining time of a study, from finished runs or from a short measurement and multiply-adds."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import jax

from resnet_jax import plugins
from resnet_jax.benchmark.measure import on_random_data
from resnet_jax.benchmark.ours import Steps
from resnet_jax.config import TrainConfig
from resnet_jax.data import LoadOptions, dataset_info
from resnet_jax.errors import ResourceError
from resnet_jax.evaluation.record import describe_model
from resnet_jax.runs.reader import read_run
from resnet_jax.runtime.memory import check_state_fits
from resnet_jax.study.entries import StudyRun
from resnet_jax.study.runner import status
from resnet_jax.training.experiment import Experiment, create_experiment
from resnet_jax.typing import Json


def work(config: Json) -> int:
    """Returns the multiply-adds of a run, without loading its data; 0 if the run will be refused for lack of memory.

    Counts three times the network's multiply-adds per training image (forward and both gradients) and once per evaluated image.
    """
    experiment = _experiment(config)
    try:
        check_state_fits(jax.eval_shape(experiment.create_state), config['model'])
    except ResourceError:
        return 0
    checked = experiment.config
    every = checked.eval_every_steps or experiment.steps_per_epoch * checked.eval_every_epochs
    evaluations = -(-experiment.total_steps // every) + 1  # plus one pass for the saved predictions
    images = 3 * experiment.total_steps * checked.batch_size + evaluations * experiment.info.num_test
    return _multiply_adds(experiment) * images


def _experiment(config: Json) -> Experiment:
    checked = TrainConfig.from_mapping(config)
    return create_experiment(checked, dataset_info(checked.dataset, LoadOptions.of(checked)))


def _multiply_adds(experiment: Experiment) -> int:
    height, _, channels = experiment.info.image_shape
    return int(describe_model(experiment.model, height, channels)['multiply_adds'])


def measure(config: Json, seconds: float = 3.0) -> float:
    """Measures and returns the images per second of a run's training step on random data.

    The rate is computed from the median of at least five iterations.

    Args:
      seconds: approximate duration of the measurement.
    """
    steps = Steps(on_random_data(config))
    steps.compile('train')
    steps.train(1)
    times: list[float] = []
    start = time.monotonic()
    while len(times) < 5 or time.monotonic() - start < seconds:
        times.append(steps.train(1))
    return float(config['batch_size'] / median(times))


def estimate(runs: Sequence[StudyRun], measured: Callable[[Json], float] = measure, at_once: int = 1) -> str:
    """Returns a text with the estimated remaining time and its sources.

    If a run of its entry has finished, a run is expected to take as long. Otherwise its time is its multiply-adds divided by
    the rate of the finished runs or, if there are none, by the measured rate of the cheapest network.

    Args:
      measured: returns the training images per second of a config.
      at_once: number of runs at the same time.
    """
    left = [run for run in runs if status(run) in ('new', 'started')]
    text = f'{len(left)} of {len(runs)} runs are left'
    if not left:
        return text
    done: dict[str, list[float]] = {}
    for run in runs:
        if status(run) == 'finished' and (taken := read_run(run.folder).result.get('seconds')):
            done.setdefault(run.entry, []).append(taken)
    seconds = sum(median(done[run.entry]) for run in left if run.entry in done)
    sources = ['finished runs of the same entries'] if seconds else []
    if others := [run for run in left if run.entry not in done]:
        known: dict[str, int] = {}

        def works(run: StudyRun) -> int:
            key = json.dumps({**run.config, 'seed': 0}, sort_keys=True)
            if key not in known:
                known[key] = work(run.config)
            return known[key]

        rates = [works(run) / median(done[run.entry]) for run in runs if run.entry in done]
        if rates:
            rate = median(rates)
            sources.append('the rate of the finished runs and the multiply-adds of the others')
        else:
            least = min((run for run in others if works(run)), key=works, default=others[0])
            speed = measured(least.config)
            rate = 3 * _multiply_adds(_experiment(least.config)) * speed
            sources.append(
                f'the rate of {least.entry}, measured now ({speed:,.0f} images/s in training), and the multiply-adds of each; '
                'compilation is not counted'
            )
        seconds += sum(map(works, others)) / rate
    how = f'{at_once} at once' if at_once > 1 else 'one after the other'
    hours = seconds / 3600 / at_once
    load = os.getloadavg()[0]
    busy = f'; {load:.1f} of {os.cpu_count()} cores are busy now, and the time is longer while they are' if load > 0.5 else ''
    # On one machine, the time of a run has been half and twice as long within a day.
    span = f'about {hours:.1f} hours ({hours / 2:.1f} to {2 * hours:.1f})'
    return f'{text}: {span} {how}, from {" and ".join(sources)}{busy}'


if __name__ == '__main__':  # see runner.weigh
    plugins.import_modules(sys.argv[1:])
    print(json.dumps([work(config) for config in json.load(sys.stdin)]))
