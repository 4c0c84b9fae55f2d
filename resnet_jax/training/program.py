"""The program that runs on the devices: many training steps in each dispatch."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import Split
from resnet_jax.data.order import epoch_order
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.runtime import failpoints
from resnet_jax.runtime.devices import DeviceData, compile_parallel, device_positions, parallel, put, replicate
from resnet_jax.runtime.memory import fits_on_devices
from resnet_jax.training import lookahead
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.loading import DROPOUT, device_data, load_function, seed_key, step_images
from resnet_jax.training.packing import packing
from resnet_jax.training.selection import select_hardest
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import kernel_paths, train_step
from resnet_jax.training.stream import ImageStream
from resnet_jax.typing import PyTree

# The loop's values: the step, whether the last step was finite, the packed state and the metrics.
_Carry = tuple[jax.Array, jax.Array, PyTree, dict[str, jax.Array]]


def train_steps(
    state: TrainState,
    positions: jax.Array,
    data: dict[str, jax.Array],
    order: jax.Array,
    key: jax.Array,
    start: jax.Array,
    count: jax.Array,
    *,
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    load_fn: Callable[..., dict[str, jax.Array]],
    per_layer_grad_norms: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs steps `start` to `start + count` of an epoch on one device without returning to Python in between.

    A step whose loss or gradient is not finite leaves the state unchanged and ends the loop.

    Args:
      positions: int32 `[batch]`: this device's positions in the global batch.
      data: the whole training set, as `device_data` returns it; or the images of some steps: see `stream.ImageStream`.
      order: int32 `[steps_per_epoch, batch_size]`: the examples of each step of this epoch.
      key: the run's key, as `seed_key` returns it; an argument, so that one compiled program works for every seed.
      start, count: int32 scalars; traced, so that one compiled program works for any number of steps.
      per_layer_grad_norms: whether `step_fn` returns 'per_layer_grad_norms' too.

    Returns:
      The new state and, for each metric, float32 `[steps_per_epoch]`, filled from `start` to `start + count`, or to the first
      step that is not finite, including it; 'per_layer_grad_norms' is `[steps_per_epoch, kernels]`.
    """
    key, bad_step = jax.random.wrap_key_data(key), failpoints.traced_at('image')
    names = ('loss', 'accuracy', 'grad_norm', *(['proxy_loss'] if state.proxy else []))

    pack, unpack = packing(state)

    def body(carry: _Carry) -> _Carry:
        i, _, packed, metrics = carry
        state = unpack(packed)
        rows = None
        if 'first_step' in data:
            rows = (i - data['first_step']) * order.shape[1] + jnp.arange(order.shape[1])
        batch = load_fn(data['image'], data['label'], order[i], positions, state.step, key, data.get('class_weights'), rows)
        if bad_step is not None:
            batch['image'] += jnp.where(state.step == bad_step, jnp.nan, 0.0).astype(batch['image'].dtype)
        # Only the dropout key differs between devices: the mask is for the device's own shard of the batch.
        dropout_key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), state.step)
        updated, new = step_fn(state, batch, jax.random.fold_in(dropout_key, positions[0]))
        # Equal on every device, because these metrics are averages over all devices.
        finite = jnp.isfinite(jnp.stack([new[name] for name in names])).all()
        packed = jax.tree.map(lambda after, before: jnp.where(finite, after, before), pack(updated), packed)
        return i + 1, finite, packed, {name: put(values, new[name], i) for name, values in metrics.items()}

    empty = {name: jnp.zeros(order.shape[0]) for name in names}
    if per_layer_grad_norms:
        empty['per_layer_grad_norms'] = jnp.zeros((order.shape[0], len(kernel_paths(state.params))))
    carry = (start, jnp.bool_(True), pack(state), empty)
    _, _, packed, metrics = jax.lax.while_loop(lambda carry: (carry[0] < start + count) & carry[1], body, carry)
    return unpack(packed), metrics


def create_train_steps(
    experiment: Experiment, *, cropped: bool = False, devices: Sequence[jax.Device] | None = None
) -> jax.stages.Wrapped:
    """Returns `map_over_devices` of an experiment's `train_steps`; `cropped` as in `load_function`."""
    return map_over_devices(steps_function(experiment, cropped=cropped), devices)


def steps_function(experiment: Experiment, *, cropped: bool = False) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `train_steps` with its keyword arguments set from an experiment; `cropped` as in `load_function`."""
    config = experiment.config
    lookahead_fn = None
    if config.lookahead_sync_period:
        lookahead_fn = functools.partial(
            lookahead.pull,
            sync_period=config.lookahead_sync_period,
            decay=config.lookahead_decay,
            total_steps=experiment.total_steps,
        )
    select_fn = None
    if experiment.proxy:
        select_fn = functools.partial(
            select_hardest,
            model=experiment.proxy[0],
            tx=experiment.proxy[1],
            count=experiment.selected_count,
            update_every=config.proxy_update_every,
        )
    step_fn = functools.partial(
        train_step,
        model=experiment.model,
        tx=experiment.tx,
        accumulation=config.gradient_accumulation_steps,
        ema_decay=config.ema_decay,
        per_layer_grad_norms=config.log_gradient_norms,
        lookahead_fn=lookahead_fn,
        select_fn=select_fn,
        frozen=experiment.frozen,
    )
    load_fn = load_function(experiment, cropped=cropped)
    return functools.partial(train_steps, step_fn=step_fn, load_fn=load_fn, per_layer_grad_norms=config.log_gradient_norms)


def map_over_devices(
    run: Callable[..., tuple[object, dict[str, jax.Array]]], devices: Sequence[jax.Device] | None = None
) -> jax.stages.Wrapped:
    """Returns `run`, which is `train_steps` with its keyword arguments set, mapped over `devices`, by default over all.

    The returned function takes and returns an unstacked, replicated state; its input state is donated.
    """
    return parallel(run, in_axes=(None, 0, None, None, None, None, None), donate_argnums=(0,), devices=devices)


class Program(Protocol):
    """Runs the training steps of a run: see `TrainingProgram`."""

    def compile(self, state: TrainState) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Returns the program that runs the steps from a state."""
        ...

    def run(self, state: TrainState, step: int, count: int) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
        """Returns the state after `count` steps from `step` on, and the metrics of each step."""
        ...

    def close(self) -> None:
        """Frees the resources of the program."""
        ...


class TrainingProgram:
    """An experiment's compiled training steps, with the order of the epoch on the devices.

    The devices also hold all images or, if these do not fit or are decoded on demand, the images of the next steps.

    Raises:
      ConfigError, ResourceError: see `ImageStream`.
    """

    def __init__(self, experiment: Experiment, train: Split):
        config = experiment.config
        self._experiment = experiment
        self._positions, self._key = device_positions(config.batch_size), seed_key(config.seed)
        self._stream, self._cropped = None, False
        on_demand = isinstance(train.image, ImagesOnDemand)
        if on_demand or not fits_on_devices(train.image.nbytes, config.device_data_gib):
            images = step_images(experiment, train, self._positions.ravel())
            self._stream = ImageStream(images, config.decode_workers if on_demand else 0)
            self._cropped = images.crop_area > 0
        self._data = device_data(experiment, train, images=self._stream is None)
        self._epoch = -1
        self._order: jax.Array | np.ndarray | None = None
        self._compiled: jax.stages.Compiled | jax.stages.Wrapped | None = None

    def compile(self, state: TrainState) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Compiles the steps, once, for a replicated state like `state`; returns the result of `compile_parallel`."""
        if self._compiled is None:
            if self._stream:
                self._stream.begin(*divmod(int(jax.device_get(state.step)), self._experiment.steps_per_epoch))
            run = create_train_steps(self._experiment, cropped=self._cropped)
            data = {**self._data, **(self._stream.empty() if self._stream else {})}
            arguments = self._arguments(state, data)
            graph = self._experiment.config.cuda_graph
            self._compiled = compile_parallel(run, *arguments, np.int32(0), np.int32(0), cuda_graph=graph)
        return self._compiled

    def run(self, state: TrainState, step: int, count: int) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
        """Runs `count` steps of an epoch in one dispatch, or fewer if the chunk of images ends earlier.

        Args:
          state: replicated; its buffers are donated.
          step: number of finished steps; equal to `state.step`, but reading `state.step` would wait for the device.
          count: number of steps; must not go past the end of the epoch.

        Returns:
          The new state and the metrics of each step: float32 scalars, and 'per_layer_grad_norms' `[kernels]` if configured.
        """
        epoch, start = divmod(step, self._experiment.steps_per_epoch)
        if epoch != self._epoch:
            config = self._experiment.config
            self._epoch = epoch
            self._order = replicate(epoch_order(config.seed, epoch, self._experiment.num_examples, config.batch_size))
        run, data = self.compile(state), self._data
        if self._stream:
            images, end = self._stream.at(epoch, start)
            data, count = {**data, **images}, min(count, end - start)
        state, metrics = run(*self._arguments(state, data), np.int32(start), np.int32(count))
        metrics = jax.device_get(metrics)  # waits for the devices
        return state, [{name: values[i] for name, values in metrics.items()} for i in range(start, start + count)]

    def close(self) -> None:
        """Ends the threads and processes that read images."""
        if self._stream:
            self._stream.close()

    def _arguments(self, state: TrainState, data: DeviceData) -> tuple[object, ...]:
        if self._order is None:
            order = np.zeros((self._experiment.steps_per_epoch, self._experiment.config.batch_size), np.int32)
            self._order = replicate(order)
        return state, self._positions, data, self._order, self._key
