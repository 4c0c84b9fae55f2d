"""Builds the network, optimizer and schedule from a config and the info of its data set; reads and writes no files.

This is the only place where step counts and learning rates are derived.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.config import TrainConfig
from resnet_jax.config_checks import LARGEST_INTEGER
from resnet_jax.data import DatasetInfo, check_hold_out
from resnet_jax.data.split import Images
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.step import LogitsFn
from resnet_jax.forward import forward
from resnet_jax.models.whitening import whitening_kernel
from resnet_jax.network import build_model
from resnet_jax.training.finetune import Start
from resnet_jax.training.freezing import NOTHING, Freezing, Frozen, continue_optimizer, plan, scale_by_depth
from resnet_jax.training.optimizer import create_optimizer, create_schedule
from resnet_jax.training.state import TrainState, create_train_state

Network = tuple[nn.Module, optax.GradientTransformation]

WHITENING_IMAGES = 2000  # number of training images, the first ones; airbench94_muon.py uses 5000, cifar10_speedrun.py 960


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config resolved by `create_experiment`.

    Attributes:
      config: the config.
      info: the info of the data set.
      model, tx, schedule: the network, the optimizer, and the learning rate as a function of the step.
      num_examples: number of training examples, excluding those held out for validation.
      steps_per_epoch, total_steps: number of steps; an epoch drops the last examples if they do not fill a batch.
      device_batch_size: size of each device's shard of a batch.
      selected_count: number of examples that a device trains on in each step; without a proxy, all those of its shard.
      proxy: the network that selects examples, and its optimizer; or None.
      learning_rate_scale: multiplies every learning rate.
      freezing: the variables that are frozen in each phase of the run, or None if none are.
      phase: the phase to which `tx` and `frozen` belong.
      start: the trained weights that the run starts from, or None.
    """

    config: TrainConfig
    info: DatasetInfo
    model: nn.Module
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    num_examples: int
    steps_per_epoch: int
    total_steps: int
    device_batch_size: int
    selected_count: int
    proxy: Network | None = None
    learning_rate_scale: float = 1.0
    freezing: Freezing | None = None
    phase: int = 0
    start: Start | None = None

    @property
    def frozen(self) -> Frozen:
        """The variables that are frozen in this phase."""
        return self.freezing.frozen(self.phase) if self.freezing else NOTHING

    def phase_at(self, step: int) -> int:
        """Returns the phase of the step that follows `step` finished steps."""
        return self.freezing.phase(step // self.steps_per_epoch) if self.freezing else 0

    def phase_of_state(self, step: int) -> int:
        """Returns the phase of the state after `step` steps: the phase of the last of these steps."""
        return self.phase_at(max(step - 1, 0))

    def in_phase(self, phase: int) -> 'Experiment':
        """Returns the experiment in another phase; its optimizer's state is for the parameters that train in this phase."""
        if phase == self.phase:
            return self
        return create_experiment(
            self.config, self.info, learning_rate_scale=self.learning_rate_scale, start=self.start, phase=phase
        )

    def continue_state(self, state: TrainState) -> TrainState:
        """Returns the state of an earlier phase with an optimizer state for the newly trainable parameters."""
        opt_state = continue_optimizer(self.tx, self.frozen.split(state.params)[0], state.opt_state)
        return state.replace(opt_state=opt_state)  # type: ignore[attr-defined,no-any-return]

    @property
    def dtype(self) -> np.dtype:
        """The dtype that the network computes in."""
        return jnp.dtype(self.config.dtype)

    @property
    def logits_fn(self) -> LogitsFn:
        """The function from variables and uint8 images to logits: see `forward.forward`."""
        info = self.info
        return functools.partial(forward, model=self.model, mean=info.mean, std=info.std, dtype=self.dtype, tta=self.config.tta)

    def whitening_kernel(self, images: Images) -> np.ndarray | None:
        """Returns the kernel for a whitening layer of the network or the proxy; None if neither has one.

        Args:
          images: uint8 `[n, height, width, channels]`: the training images.
        """
        if not (has_whitening(self.model) or (self.proxy and has_whitening(self.proxy[0]))):
            return None
        mean, std = np.array(self.info.mean, np.float32), np.array(self.info.std, np.float32)
        return whitening_kernel((images[:WHITENING_IMAGES].astype(np.float32) / 255 - mean) / std)

    def create_state(self, whitening_kernel: np.ndarray | None = None) -> TrainState:
        """Returns the initial state."""
        return create_train_state(
            self.model,
            self.tx,
            self.info.image_shape,
            self.config.seed,
            ema=self.config.ema_decay > 0,
            lookahead=self.config.lookahead_sync_period > 0,
            whitening_kernel=whitening_kernel,
            loaded=self.start.arrays if self.start else None,
            frozen=self.frozen,
            proxy=self.proxy,
        )


def create_experiment(
    config: TrainConfig,
    info: DatasetInfo,
    *,
    learning_rate_scale: float = 1.0,
    start: Start | None = None,
    phase: int = 0,
) -> Experiment:
    """Builds network, optimizer and schedule for all devices of all processes.

    Args:
      info: the info of the data set, as `data.dataset_info` returns it.
      learning_rate_scale: multiplies every learning rate; below 1 after a run has diverged.
      start: the trained weights that the run starts from, as `finetune.begin` returns them with `info`.
      phase: the phase of the run. A run has several phases if frozen layers start to train at some epoch.

    Raises:
      ConfigError: a name is unknown, the batch cannot be divided over the devices, or values conflict.
    """
    model = build_model(config, info.num_classes, info.image_shape)
    proxy_model = build_model(config, info.num_classes, info.image_shape, 'proxy_') if config.proxy_model else None
    _check_fits(config, info)
    num_examples = _num_examples(config, info.num_train)
    devices, batch_size, accumulation = jax.device_count(), config.batch_size, config.gradient_accumulation_steps
    check_batch_size(batch_size, devices, accumulation, num_examples)
    device_batch_size = selected_count = batch_size // devices
    if proxy_model:
        selected_count = select_count(device_batch_size, config.selected_fraction, accumulation)

    steps_per_epoch = num_examples // batch_size
    total_steps = steps_per_epoch * config.num_epochs
    if total_steps > LARGEST_INTEGER:  # steps are int32 on the device
        raise ConfigError(
            f'{config.num_epochs} epochs of {steps_per_epoch} steps are {total_steps} steps; '
            f'expected at most {LARGEST_INTEGER}: lower num_epochs'
        )
    base = config.base_batch_size
    peak = learning_rate_scale * config.learning_rate * (batch_size / base if base else 1.0)
    schedule = create_schedule(
        config.schedule,
        peak=peak,
        total_steps=total_steps,
        warmup_steps=0 if config.schedule == 'one_cycle' else round(config.warmup_epochs * steps_per_epoch),
        milestones=config.milestones,
        step_factor=config.step_factor,
    )
    bias_scale, head_scale = (
        (rate or config.learning_rate) / config.learning_rate for rate in (config.bias_learning_rate, config.head_learning_rate)
    )

    def optimizer(
        network: nn.Module, every: int = 1, first: int = 0, clip_norm: float = config.clip_norm
    ) -> optax.GradientTransformation:
        """Returns the optimizer of a network that is updated every `every` steps, from step `first` on.

        The schedules count the steps of the run, not the updates.

        Raises:
          ConfigError: `whitening_bias_epochs` is too large.
        """

        def of_run(schedule: optax.Schedule) -> optax.Schedule:
            return schedule if (every, first) == (1, 0) else lambda count: schedule(first + every * count)

        whitening_bias_schedule = None
        if has_whitening(network):
            epochs, most = config.whitening_bias_epochs, LARGEST_INTEGER // steps_per_epoch
            if epochs > most:
                raise ConfigError(f'whitening_bias_epochs is {epochs:g}; expected at most {most}')
            steps = math.ceil(epochs * steps_per_epoch)
            linear = optax.linear_schedule(peak * bias_scale if steps else 0.0, 0.0, max(steps, 1))
            whitening_bias_schedule = of_run(linear)
        return create_optimizer(
            config.optimizer,
            of_run(schedule),
            config=config,
            weight_decay=config.weight_decay,
            decay_norm_and_bias=config.decay_norm_and_bias,
            momentum=config.momentum,
            nesterov=config.nesterov,
            clip_norm=clip_norm,
            bias_scale=bias_scale,
            head_scale=head_scale,
            whitening_bias_schedule=whitening_bias_schedule,
            muon_momentum=config.muon_momentum,
            muon_steps=config.muon_steps,
            muon_dtype='bfloat16' if config.dtype == 'bfloat16' else 'float32',
        )

    freezing = plan(config, model, info.image_shape)
    if freezing and config.unfreeze_epochs:
        # Parameters that start to train later have a separate optimizer, which counts steps from that time on.
        groups = {
            str(i): optimizer(model, first=epoch * steps_per_epoch, clip_norm=0.0)
            for i, epoch in enumerate(freezing.starts[: phase + 1])
        }
        clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
        tx = optax.chain(*clip, optax.partition(groups, freezing.groups))
    else:
        tx = optimizer(model)
    if config.layer_decay != 1:
        tx = optax.chain(tx, scale_by_depth(model, info.image_shape, config.layer_decay))

    return Experiment(
        config=config,
        info=info,
        model=model,
        tx=tx,
        schedule=schedule,
        num_examples=num_examples,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        device_batch_size=device_batch_size,
        selected_count=selected_count,
        proxy=(proxy_model, optimizer(proxy_model, config.proxy_update_every)) if proxy_model else None,
        learning_rate_scale=learning_rate_scale,
        freezing=freezing,
        phase=phase,
        start=start,
    )


def has_whitening(model: nn.Module) -> bool:
    """Returns whether a network has a whitening layer, which needs a `whitening_kernel`."""
    return bool(getattr(model, 'whitening', False))


def _check_fits(config: TrainConfig, info: DatasetInfo) -> None:
    """Checks that the config fits the images and the number of classes.

    Raises:
      ConfigError: the config does not fit them.
    """
    weights, channels = config.class_weights, info.image_shape[2]
    if weights and not isinstance(weights, str) and len(weights) != info.num_classes:
        raise ConfigError(
            f'class_weights has {len(weights)} numbers and {info.name} has {info.num_classes} classes; expected one for each'
        )
    for name, kinds in (('auto_augment', (1, 3)), ('saturation', (3,)), ('hue', (3,))):
        if getattr(config, name) not in ('none', 0.0) and channels not in kinds:
            expected = ' or '.join(map(str, kinds))
            raise ConfigError(
                f'{name}={getattr(config, name)} is for images of {expected} channels and {info.name} has {channels}; '
                'expected it unset'
            )


def _num_examples(config: TrainConfig, num_train: int) -> int:
    if config.validation_size:
        check_hold_out(config.validation_size, num_train)
    left = num_train - config.validation_size
    if config.train_size > left:
        raise ConfigError(f'train_size is {config.train_size}, but there are {left} training examples; lower it, or 0 for all')
    return config.train_size or left


def check_batch_size(batch_size: int, devices: int, accumulation: int, examples: int) -> None:
    """Checks that the global batch can be divided over the devices and that the training set fills a batch.

    Raises:
      ConfigError: one of these is false; names the nearest valid sizes.
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
            f'expected batch_size={" or ".join(map(str, sizes))}'
        )


def select_count(size: int, fraction: float, accumulation: int) -> int:
    """Returns the number of examples that the main network trains on, of the `size` examples of a device's shard.

    Raises:
      ConfigError: the number is not a multiple of the accumulation steps; names the nearest valid fractions.
    """
    count = max(1, round(fraction * size))
    if count % accumulation:
        below = count // accumulation * accumulation
        nearest = [f'{n / size:g}' for n in (below, below + accumulation) if 0 < n <= size]
        raise ConfigError(
            f'selected_fraction {fraction:g} selects {count} of the {size} examples on a device, which do not divide over '
            f'{accumulation} accumulation steps; expected selected_fraction={" or ".join(nearest)}'
        )
    return count
