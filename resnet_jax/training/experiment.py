"""From a config to everything that a run needs. The one place where steps and learning rates are derived."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import data
from resnet_jax.classifier import build_model
from resnet_jax.errors import ConfigError
from resnet_jax.models.whitening import whitening_kernel
from resnet_jax.training import lookahead, program, step
from resnet_jax.training.optimizer import create_optimizer, create_schedule
from resnet_jax.training.selection import select_hardest
from resnet_jax.training.state import TrainState, create_train_state

_DETERMINISTIC = '--xla_gpu_deterministic_ops=true'

WHITENING_IMAGES = 2000  # the first of the training images; airbench94_muon.py takes 5000, cifar10_speedrun.py 960

# Fields that `program.load_batch` takes under their own names.
AUGMENTATION = (
    'crop_padding',
    'crop_mode',
    'flip',
    'alternating_flip',
    'brightness',
    'contrast',
    'cutout_size',
    'mixup_alpha',
    'label_smoothing',
)


def has_whitening(model: nn.Module) -> bool:
    return getattr(model, 'whitening', False)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `create_experiment` makes of a config.

    Attributes:
      config: the checked config.
      dataset: the data set as it was loaded.
      train: the part trained on; `validation`: the part held out, or None.
      model, tx, schedule: the network, the optimizer and its learning rate by step.
      steps_per_epoch, total_steps: an epoch drops the examples that do not fill a batch.
      accumulation: parts into which a device divides its part of a batch, or of what is selected of it.
      proxy: the network that selects examples and its optimizer, or None.
    """

    config: Mapping[str, Any]
    dataset: data.Dataset
    train: data.Split
    validation: data.Split | None
    model: nn.Module
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    steps_per_epoch: int
    total_steps: int
    accumulation: int
    proxy: tuple[nn.Module, optax.GradientTransformation] | None = None

    @property
    def selected_count(self) -> int:
        """How many examples of its part of a batch a device trains on; all, without a proxy."""
        size = self.config['batch_size'] // jax.device_count()
        return select_count(size, self.config['selected_fraction'], self.accumulation) if self.proxy else size

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.config['dtype'])

    @functools.cached_property
    def whitening_kernel(self) -> np.ndarray | None:
        """The kernel that the first training images give, for a network or a proxy with a whitening layer; else None."""
        if not (has_whitening(self.model) or (self.proxy and has_whitening(self.proxy[0]))):
            return None
        image = self.train.image[:WHITENING_IMAGES]
        mean, std = np.array(self.dataset.mean, np.float32), np.array(self.dataset.std, np.float32)
        return whitening_kernel((image.astype(np.float32) / 255 - mean) / std)

    def create_state(self) -> TrainState:
        """Returns the initial state."""
        config = self.config
        return create_train_state(
            self.model,
            self.tx,
            self.dataset.image_shape,
            config['seed'],
            ema=config['ema_decay'] > 0,
            lookahead=config['lookahead_sync_period'] > 0,
            whitening_kernel=self.whitening_kernel,
            proxy=self.proxy,
        )

    def describe_dataset(self) -> dict[str, Any]:
        """Returns what a checkpoint must know of the data set to be used without it."""
        dataset = self.dataset
        return {
            'name': dataset.name,
            'fingerprint': dataset.fingerprint,
            'image_shape': list(dataset.image_shape),
            'class_names': list(dataset.class_names),
            'mean': list(dataset.mean),
            'std': list(dataset.std),
        }


def create_experiment(config: Mapping[str, Any]) -> Experiment:
    """Builds model, data, schedule and optimizer from a config that `validate` has passed.

    Raises:
      ConfigError: a name does not exist, the batch does not divide over the devices, or values do not go together.
      InputFileError: the data set cannot be had.
    """
    if config['deterministic'] and jax.default_backend() == 'gpu' and _DETERMINISTIC not in os.environ.get('XLA_FLAGS', ''):
        raise ConfigError(f'deterministic needs {_DETERMINISTIC} in XLA_FLAGS before JAX starts; bin/train.py puts it there')
    # A wrong name, argument or batch size is told before the data are read, or even downloaded.
    _check_before_data(config)
    dataset = data.load_dataset(config['dataset'], config['data_dir'] or None, config['data_archive'] or None)
    model = build_model(config, dataset.num_classes)
    proxy_model = build_model(config, dataset.num_classes, 'proxy_') if config['proxy_model'] else None
    train, validation = dataset.train, None
    if config['validation_size']:
        train, validation = data.hold_out(train, config['validation_size'], config['seed'])
    train = _subset(train, config['train_size'])

    batch_size, accumulation = config['batch_size'], config['gradient_accumulation_steps']
    check_batch_size(batch_size, jax.device_count(), accumulation, len(train.label))
    steps_per_epoch = len(train.label) // batch_size
    total_steps = steps_per_epoch * config['num_epochs']
    base = config['base_batch_size']
    peak = config['learning_rate'] * (batch_size / base if base else 1.0)
    schedule = create_schedule(
        config['schedule'],
        peak=peak,
        total_steps=total_steps,
        warmup_steps=round(config['warmup_epochs'] * steps_per_epoch),
        milestones=config['milestones'],
        step_factor=config['step_factor'],
    )
    bias_scale, head_scale = (
        (config[f'{part}_learning_rate'] or config['learning_rate']) / config['learning_rate'] for part in ('bias', 'head')
    )

    def optimizer(network: nn.Module, every: int = 1) -> optax.GradientTransformation:
        """For a network that is updated at each `every`-th step: its learning rates are those of the step of the run."""

        def of_run(schedule: optax.Schedule) -> optax.Schedule:
            return schedule if every == 1 else lambda count: schedule(every * count)

        whitening_bias_schedule = None
        if has_whitening(network):
            steps = math.ceil(config['whitening_bias_epochs'] * steps_per_epoch)
            linear = optax.linear_schedule(peak * bias_scale if steps else 0.0, 0.0, max(steps, 1))
            whitening_bias_schedule = of_run(linear)
        return create_optimizer(
            config['optimizer'],
            of_run(schedule),
            weight_decay=config['weight_decay'],
            decay_norm_and_bias=config['decay_norm_and_bias'],
            momentum=config['momentum'],
            nesterov=config['nesterov'],
            clip_norm=config['clip_norm'],
            bias_scale=bias_scale,
            head_scale=head_scale,
            whitening_bias_schedule=whitening_bias_schedule,
            muon_momentum=config['muon_momentum'],
            muon_steps=config['muon_steps'],
        )

    proxy = None
    if proxy_model:
        select_count(batch_size // jax.device_count(), config['selected_fraction'], accumulation)
        proxy = proxy_model, optimizer(proxy_model, config['proxy_update_every'])
    return Experiment(
        config, dataset, train, validation, model, optimizer(model), schedule, steps_per_epoch, total_steps, accumulation, proxy
    )


def check_names(config: Mapping[str, Any]) -> None:
    """Checks what can be checked without the data, so that a wrong config makes no run folder.

    Raises:
      ConfigError: the model or the data set has no such name or argument, or the batch does not divide over the devices.
    """
    data.check_name(config['dataset'])
    _check_before_data(config)


def _check_before_data(config: Mapping[str, Any]) -> None:
    build_model(config, 10)
    check_batch_size(config['batch_size'], jax.device_count(), config['gradient_accumulation_steps'], examples=2**31)


def _subset(train: data.Split, size: int) -> data.Split:
    if size > len(train.label):
        raise ConfigError(f'train_size is {size}, but there are {len(train.label)} training examples; lower it, or 0 for all')
    # The seed is not the run's: what differs between seeds shall not be the data.
    return data.hold_out(train, size, seed=0)[1] if 0 < size < len(train.label) else train


def check_batch_size(batch_size: int, devices: int, accumulation: int, examples: int) -> None:
    """Checks that the global batch divides and that the training set fills one.

    Raises:
      ConfigError: names the nearest sizes that do.
    """
    unit = devices * accumulation
    largest = examples // unit * unit
    if batch_size % unit or batch_size > examples:
        below = min(batch_size // unit * unit, largest)
        sizes = [size for size in (below, below + unit) if 0 < size <= largest]
        over = f'{devices} device{"s" if devices > 1 else ""}' + (
            f' times {accumulation} accumulation steps' if accumulation > 1 else ''
        )
        if not sizes:
            raise ConfigError(f'{examples} training examples do not fill a batch over {over}; use fewer of them')
        raise ConfigError(
            f'batch_size {batch_size} does not divide over {over} and {examples} training examples; '
            f'expected --config.batch_size={" or ".join(map(str, sizes))}'
        )


def select_count(size: int, fraction: float, accumulation: int) -> int:
    """Returns how many of the `size` examples of a device's part of a batch the main network trains on.

    Raises:
      ConfigError: they do not divide into the accumulation steps; names the nearest fractions that do.
    """
    count = max(1, round(fraction * size))
    if count % accumulation:
        below = count // accumulation * accumulation
        nearest = [f'{n / size:g}' for n in (below, below + accumulation) if 0 < n <= size]
        raise ConfigError(
            f'selected_fraction {fraction:g} selects {count} of the {size} examples on a device, which do not divide over '
            f'{accumulation} accumulation steps; expected --config.selected_fraction={" or ".join(nearest)}'
        )
    return count


def parallel_train_steps(experiment: Experiment) -> Callable:
    """Returns the experiment's training step for all devices, many steps per call: see `program.train_steps`."""
    config, dataset = experiment.config, experiment.dataset
    lookahead_fn = None
    if sync_period := config['lookahead_sync_period']:
        lookahead_fn = functools.partial(
            lookahead.pull, sync_period=sync_period, decay=config['lookahead_decay'], total_steps=experiment.total_steps
        )
    select_fn = None
    if experiment.proxy:
        select_fn = functools.partial(
            select_hardest,
            model=experiment.proxy[0],
            tx=experiment.proxy[1],
            count=experiment.selected_count,
            update_every=config['proxy_update_every'],
        )
    step_fn = functools.partial(
        step.train_step,
        model=experiment.model,
        tx=experiment.tx,
        accumulation=experiment.accumulation,
        ema_decay=config['ema_decay'],
        per_layer_grad_norms=config['log_gradient_norms'],
        lookahead_fn=lookahead_fn,
        select_fn=select_fn,
    )
    load_fn = functools.partial(
        program.load_batch,
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
        dtype=experiment.dtype,
        steps_per_epoch=experiment.steps_per_epoch,
        **{name: config[name] for name in AUGMENTATION},
    )
    return program.parallel_train_steps(step_fn, load_fn, per_layer_grad_norms=config['log_gradient_norms'])
