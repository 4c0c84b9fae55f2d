"""From a config to everything that a run needs. The one place where steps and learning rates are derived."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import data
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.training import step
from resnet_jax.training.optimizer import create_optimizer, create_schedule
from resnet_jax.training.state import TrainState, create_train_state


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `create_experiment` makes of a config.

    Attributes:
      config: the checked config.
      dataset: the data set as it was loaded.
      train: the part trained on; `validation`: the part held out, or None.
      model, tx, schedule: the network, the optimizer and its learning rate by step.
      steps_per_epoch, total_steps: an epoch drops the examples that do not fill a batch.
      accumulation: parts into which a device divides its part of a batch.
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

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.config['dtype'])

    def create_state(self) -> TrainState:
        """Returns the initial state."""
        config = self.config
        return create_train_state(self.model, self.tx, self.dataset.image_shape, config['seed'], ema=config['ema_decay'] > 0)

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
    # A wrong name, argument or batch size is told before the data are read, or even downloaded.
    _check_before_data(config)
    dataset = data.load_dataset(config['dataset'], config['data_dir'] or None, config['data_archive'] or None)
    model = build_model(config, dataset.num_classes)
    train, validation = dataset.train, None
    if config['validation_size']:
        train, validation = data.hold_out(train, config['validation_size'], config['seed'])

    batch_size, accumulation = config['batch_size'], config['gradient_accumulation_steps']
    check_batch_size(batch_size, jax.device_count(), accumulation, len(train.label))
    steps_per_epoch = len(train.label) // batch_size
    total_steps = steps_per_epoch * config['num_epochs']
    base = config['base_batch_size']
    schedule = create_schedule(
        config['schedule'],
        peak=config['learning_rate'] * (batch_size / base if base else 1.0),
        total_steps=total_steps,
        warmup_steps=round(config['warmup_epochs'] * steps_per_epoch),
        milestones=config['milestones'],
        step_factor=config['step_factor'],
    )
    tx = create_optimizer(
        config['optimizer'],
        schedule,
        weight_decay=config['weight_decay'],
        decay_norm_and_bias=config['decay_norm_and_bias'],
        momentum=config['momentum'],
        nesterov=config['nesterov'],
        clip_norm=config['clip_norm'],
    )
    return Experiment(config, dataset, train, validation, model, tx, schedule, steps_per_epoch, total_steps, accumulation)


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


def build_model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Returns the config's network.

    Raises:
      ConfigError: see `create_model`; or `model_kwargs` holds what another field says.
    """
    name, kwargs = config['model'], config['model_kwargs']
    elsewhere = {'name': 'model', 'num_classes': 'dataset', 'dtype': 'dtype', 'axis_name': 'cross_device_batch_norm'}
    for field in kwargs:
        if field in elsewhere:
            raise ConfigError(f'model_kwargs has {field}; remove it, expected it from config.{elsewhere[field]} alone')
    model = create_model(name, num_classes=num_classes, dtype=jnp.dtype(config['dtype']), **kwargs)
    if not config['cross_device_batch_norm']:
        return model
    if not hasattr(model, 'axis_name'):
        raise ConfigError(f'{name} has no BatchNorm; expected --config.cross_device_batch_norm=False')
    return model.clone(axis_name=step.AXIS)


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


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """Returns int32 `[steps_per_epoch, batch_size]`: the examples of each batch of an epoch, a function of seed and epoch.

    Philox's raw integers and a stable sort, since NumPy's own permutations may change between versions.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    order = np.argsort(keys, kind='stable').astype(np.int32)
    steps = examples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def parallel_train_steps(experiment: Experiment) -> Callable:
    """Returns the experiment's training step for all devices, many steps per call: see `step.train_steps`."""
    config, dataset = experiment.config, experiment.dataset
    step_fn = functools.partial(
        step.train_step,
        model=experiment.model,
        tx=experiment.tx,
        accumulation=experiment.accumulation,
        ema_decay=config['ema_decay'],
    )
    load_fn = functools.partial(
        step.load_batch,
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
        dtype=experiment.dtype,
        **{name: config[name] for name in ('label_smoothing', 'mixup_alpha', 'crop_padding', 'flip', 'cutout_size')},
    )
    return step.parallel_train_steps(step_fn, load_fn, config['seed'])
