"""Times the training step of several seeds: all in one program, as on a GPU, beside one seed after another."""

import time
from collections.abc import Callable

import jax

from resnet_jax import data, plugins
from resnet_jax.benchmark.measure import Effort, interleave, on_random_data, summary
from resnet_jax.benchmark.worker import Worker
from resnet_jax.config import TrainConfig
from resnet_jax.runtime.devices import replicate
from resnet_jax.runtime.environment import environment
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.program import TrainingProgram
from resnet_jax.training.seeds import SeedsProgram
from resnet_jax.typing import Json, Row


class SeedSteps:
    """The two programs of a config, on random data."""

    def __init__(self, config: Json, count: int):
        checked = TrainConfig.from_mapping(config)
        dataset = data.find_dataset(checked.dataset, data.LoadOptions.of(checked)).dataset
        experiment = create_experiment(checked, dataset.info)
        train, _ = data.training_splits(dataset, checked.validation_size, checked.train_size, checked.seed)
        kernel = experiment.whitening_kernel(train.image)
        self._one, self._state = TrainingProgram(experiment, train), replicate(experiment.create_state(kernel))
        self._several = SeedsProgram(experiment, train, [checked.seed + i for i in range(count)])
        self._states = [replicate(experiment.create_state(kernel))] * count
        self._steps_per_epoch = experiment.steps_per_epoch

    def describe(self) -> Row:
        """Returns versions and hardware."""
        return {'environment': environment(plugins.imported)}

    def run(self, *, form: str, steps: int) -> float:
        """Returns the seconds of `steps` training steps: of one seed for the form 'in_turn', of all for 'together'."""
        before = time.monotonic()
        while steps:
            count = min(steps, self._steps_per_epoch)
            steps -= count
            if form == 'in_turn':
                self._state, _ = self._one.run(self._state, 0, count)
            else:
                answers = self._several.run(range(len(self._states)), self._states, 0, count)
                self._states = [state for state, _ in answers]
        jax.block_until_ready((self._state, self._states))
        return time.monotonic() - before


def measure_seeds(
    name: str, config: Json, count: int, effort: Effort, progress: Callable[[str], None] = lambda line: None
) -> Row:
    """Measures both forms in turns.

    Args:
      config: a checked config; its data set gives the shape of the images.
      count: number of seeds.

    Returns:
      'name', 'batch_size', 'seeds', 'environment'; 'together' and 'in_turn' in images/s of all seeds, and their 'ratio'.
    """
    config = on_random_data(config)
    with Worker('seeds', {}, config=config, count=count) as worker:

        def speed(form: str, seeds: int) -> Callable[[], float]:
            worker('run', form=form, steps=1)  # compiles
            steps = max(1, min(2000, int(effort.seconds / (worker('run', form=form, steps=2) / 2))))
            return lambda: seeds * config['batch_size'] * steps / worker('run', form=form, steps=steps)

        together = speed('together', count)
        in_turn = speed('in_turn', 1)
        progress(f'{name}: both compiled')
        first, second, ratios = interleave(together, in_turn, effort.rounds)
        facts = worker('describe')
    row = {'together': summary(first), 'in_turn': summary(second), 'ratio': summary(ratios)}
    return {'name': name, 'batch_size': config['batch_size'], 'seeds': count, **row, **facts}


def table(row: Row) -> str:
    """Returns the medians as a Markdown table."""
    lines = [
        f'{row["name"]}, batch {row["batch_size"]}, {row["environment"]["device"]}; medians of {row["ratio"]["n"]}',
        '',
        f'| {row["seeds"]} seeds | images/s of all seeds | lowest-highest |',
        '|---|---|---|',
    ]
    for form, label in (('in_turn', 'one after another'), ('together', 'in one program')):
        cell = row[form]
        lines.append(f'| {label} | {cell["median"]:,.0f} | {cell["low"]:,.0f}-{cell["high"]:,.0f} |')
    ratio = row['ratio']
    return '\n'.join(
        [*lines, '', f'one program / one after another: {ratio["median"]:.3f} ({ratio["low"]:.3f}-{ratio["high"]:.3f})']
    )
