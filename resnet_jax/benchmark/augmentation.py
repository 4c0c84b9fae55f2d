"""Times the loading of a batch in the compiled step: the cost of each augmentation per image."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import data, plugins
from resnet_jax.benchmark.measure import Effort, on_random_data
from resnet_jax.benchmark.worker import Worker
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.runtime.environment import environment
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loading import device_data, load_function
from resnet_jax.typing import Json, Row

NONE = 'none'  # examples are only gathered from the data set and normalised
AUGMENTATIONS: Mapping[str, Json] = {
    'crop': {'crop_padding': 4},
    'crop_reflect': {'crop_padding': 4, 'crop_mode': 'reflect'},
    'resized_crop': {'resized_crop_area': 0.08},
    'flip': {'flip': True},
    'saturation': {'saturation': 0.4},
    'hue': {'hue': 0.1},
    'randaugment': {'auto_augment': 'randaugment'},
    'trivialaugment': {'auto_augment': 'trivialaugment'},
    'color_jitter': {'brightness': 0.14, 'contrast': 0.13},
    'cutout': {'cutout_size': 8},
    'random_erasing': {'random_erasing_prob': 0.25},
    'mixup': {'mixup_alpha': 0.2},
    'cutmix': {'cutmix_alpha': 1.0},
}
_OFF: Json = {
    **{'crop_padding': 0, 'crop_mode': 'constant', 'resized_crop_area': 0.0, 'flip': False, 'alternating_flip': False},
    **{'saturation': 0.0, 'hue': 0.0, 'auto_augment': 'none', 'brightness': 0.0, 'contrast': 0.0, 'cutout_size': 0},
    **{'random_erasing_prob': 0.0, 'mixup_alpha': 0.0, 'cutmix_alpha': 0.0},
}


def parse_augmentations(names: Sequence[str]) -> list[str]:
    """Returns the names without repetition; all of them for 'all'.

    Raises:
      ConfigError: a name is unknown.
    """
    chosen: list[str] = []
    for name in names:
        if name not in AUGMENTATIONS and name != 'all':
            hint = did_you_mean(name, list(AUGMENTATIONS))
            raise ConfigError(f'no augmentation {name!r}; expected all or one of {", ".join(AUGMENTATIONS)}{hint}')
        chosen += AUGMENTATIONS if name == 'all' else [name]
    return list(dict.fromkeys(chosen))


class Augmentations:
    """The loading of batches of a config with a single augmentation, on the first device."""

    def __init__(self, config: Json):
        self._config = dict(config)
        self._compiled: dict[str, Callable[[int], jax.Array]] = {}

    def describe(self) -> Row:
        """Returns versions and hardware, and the shape of the images."""
        shape = data.dataset_info(self._config['dataset']).image_shape
        return {'environment': environment(plugins.imported), 'image_shape': list(shape)}

    def run(self, *, name: str, steps: int) -> float:
        """Returns the seconds for loading `steps` batches, one after the other, on the device."""
        if name not in self._compiled:
            self._compiled[name] = self._compile(name)
        before = time.monotonic()
        jax.block_until_ready(self._compiled[name](steps))
        return time.monotonic() - before

    def _compile(self, name: str) -> Callable[[int], jax.Array]:
        config = TrainConfig.from_mapping({**self._config, **_OFF, **AUGMENTATIONS.get(name, {})})
        dataset = data.load_dataset(config.dataset)
        experiment = create_experiment(config, dataset.info)
        load, size = load_function(experiment), config.batch_size
        arrays = device_data(experiment, dataset.train)
        positions, key = np.arange(size, dtype=np.int32), jax.random.key(config.seed)
        order = np.random.default_rng(0).permutation(experiment.num_examples)[:size].astype(np.int32)

        def once(arrays: Mapping[str, jax.Array], step: jax.Array) -> jax.Array:
            chosen = (order + step) % experiment.num_examples  # otherwise XLA would hoist work out of the loop
            image: jax.Array = load(arrays['image'], arrays['label'], chosen, positions, step, key)['image']
            return image

        @jax.jit
        def loop(arrays: Mapping[str, jax.Array], steps: int) -> jax.Array:
            shape = jax.eval_shape(once, arrays, jnp.int32(0))
            start = jnp.zeros(shape.shape, shape.dtype)
            image: jax.Array = jax.lax.fori_loop(0, steps, lambda step, _: once(arrays, step), start)
            return image

        loop(arrays, 0).block_until_ready()
        return lambda steps: loop(arrays, steps)


def measure_augmentations(
    names: Sequence[str], config: Json, effort: Effort, progress: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Measures the loading of a batch without augmentation and with each of `names`, in turns.

    Args:
      config: a checked config; its data set gives the shape of the images, which are random.

    Returns:
      A row for each, with the row for `NONE` first: 'augmentation', 'microseconds' per image (one value per round),
      'batch_size', 'dtype', 'image_shape' and 'environment'.
    """
    config = on_random_data(config)
    with Worker('augmentations', {'JAX_NUM_CPU_DEVICES': '1'}, config=config) as worker:
        facts, size = worker('describe'), config['batch_size']
        steps: dict[str, int] = {}
        times: dict[str, list[float]] = {}
        for name in (NONE, *names):
            steps[name], times[name] = 1, []
            worker('run', name=name, steps=1)  # compiles
            while (seconds := worker('run', name=name, steps=steps[name])) < effort.seconds / 2 and steps[name] < 100_000:
                steps[name] = max(steps[name] + 1, int(steps[name] * min(100, effort.seconds / max(seconds, 1e-6))))
            progress(f'{name}: {1e6 * seconds / steps[name] / size:.3g} µs per image')
        for _ in range(effort.rounds):
            for name, values in times.items():
                values.append(1e6 * worker('run', name=name, steps=steps[name]) / steps[name] / size)
    shown = {'batch_size': size, 'dtype': config['dtype'], **facts}
    return [{'augmentation': name, 'microseconds': values, **shown} for name, values in times.items()]


def table(rows: Sequence[Row]) -> str:
    """Returns the median times as a Markdown table: the time of the batch, and the time that the augmentation adds."""
    first, *_ = rows
    base = statistics.median(first['microseconds'])
    shape = ' x '.join(map(str, first['image_shape']))
    lines = [
        f'Microseconds per image of {shape}, batch {first["batch_size"]}, {first["dtype"]}, {first["environment"]["device"]}; '
        f'medians of {len(first["microseconds"])}',
        '',
        '| augmentation | loading | added | lowest-highest |',
        '|---|---|---|---|',
    ]
    for row in rows:
        values = row['microseconds']
        middle = statistics.median(values)
        added = '' if row is first else f'{middle - base:.3g}'
        lines.append(f'| {row["augmentation"]} | {middle:.3g} | {added} | {min(values):.3g}-{max(values):.3g} |')
    return '\n'.join(lines)
