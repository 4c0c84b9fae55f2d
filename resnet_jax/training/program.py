"""The program that runs on the devices: an epoch's order, a batch loaded and augmented, many training steps per dispatch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.data.augment import augment, mirrored_in_epoch
from resnet_jax.ops import kernels
from resnet_jax.runtime import failpoints
from resnet_jax.runtime.devices import parallel, put
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import kernel_paths

# Streams of randomness. Each is folded into the seed's key before the step is, so that they never meet.
_AUGMENT, _MIXUP, _DROPOUT, _FLIP = 1, 2, 3, 4


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """Returns int32 `[steps_per_epoch, batch_size]`: the examples of each batch of an epoch, a function of seed and epoch.

    Philox's raw integers and a stable sort, since NumPy's own permutations may change between versions.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    order = np.argsort(keys, kind='stable').astype(np.int32)
    steps = examples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def seed_key(seed: int) -> np.ndarray:
    """Returns uint32 `[2]`: the data of a run's key, from which all of its randomness on the device follows."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def load_batch(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    positions: jax.Array,
    step: jax.Array,
    key: jax.Array,
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    alternating_flip: bool = False,
    steps_per_epoch: int = 1,
    **augmentation: Any,
) -> dict[str, jax.Array]:
    """Gathers, augments and mixes this device's part of a batch, from the data set on the device.

    Every random choice depends on the seed, the step and the example's position in the global batch, not on the device
    that computes it.

    Args:
      images: uint8 `[n, height, width, channels]`; labels: int32 `[n]`: the whole training set.
      order: int32 `[batch_size]`: the examples of the global batch.
      positions: int32 `[batch]`: this device's places in it.
      alternating_flip, steps_per_epoch: see `mirrored_in_epoch`; the epoch is `step // steps_per_epoch`.
      augmentation: see `augment`.

    Returns:
      'image' and 'label' as `train_step` takes them. For mixup (Zhang et al. 2018) each example is mixed with the one
      opposite in the global batch, which is in random order, with one weight per step.
    """

    def load(positions):
        augment_key = jax.random.fold_in(jax.random.fold_in(key, _AUGMENT), step)
        keys = jax.vmap(lambda position: jax.random.fold_in(augment_key, position))(positions)
        chosen = order[positions]
        label = optax.smooth_labels(jax.nn.one_hot(labels[chosen], num_classes), label_smoothing)
        mirrored = None
        if alternating_flip:
            mirrored = mirrored_in_epoch(jax.random.fold_in(key, _FLIP), chosen, step // steps_per_epoch)
        return {'image': augment(keys, images[chosen], mirrored=mirrored, **augmentation), 'label': label}

    batch = load(positions)
    if mixup_alpha:
        mixup_key = jax.random.fold_in(jax.random.fold_in(key, _MIXUP), step)
        weight = jax.random.beta(mixup_key, mixup_alpha, mixup_alpha)
        other = load(order.shape[0] - 1 - positions)
        batch = jax.tree.map(lambda a, b: (weight * a + (1 - weight) * b).astype(a.dtype), batch, other)
    return batch


def train_steps(
    state: TrainState,
    positions: jax.Array,
    data: dict[str, jax.Array],
    order: jax.Array,
    key: jax.Array,
    start: jax.Array,
    count: jax.Array,
    *,
    step_fn: Callable,
    load_fn: Callable,
    per_layer_grad_norms: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs steps `start` to `start + count` of an epoch on one device, without going back to Python between them.

    Args:
      positions: int32 `[batch]`: this device's places in the global batch.
      data: 'image' and 'label': the whole training set.
      order: int32 `[steps_per_epoch, batch_size]`: the examples of each step of this epoch.
      key: of the run, as `seed_key` returns it; an argument, so that the compiled program serves for every seed.
      start, count: int32 scalars. They are traced, so that one compiled program serves for any number of steps.
      per_layer_grad_norms: `step_fn` returns 'per_layer_grad_norms' too.

    A step whose loss or gradient is not finite changes nothing of the state, and no step follows it.

    Returns:
      The new state and, for each metric, float32 `[steps_per_epoch]`, filled from `start` to `start + count` or to the step
      that was not finite; 'per_layer_grad_norms' is `[steps_per_epoch, kernels]`.
    """
    key, bad_step = jax.random.wrap_key_data(key), failpoints.traced_at('image')
    names = ('loss', 'accuracy', 'grad_norm', *(['proxy_loss'] if state.proxy else []))

    def body(carry):
        i, _, state, metrics = carry
        batch = load_fn(data['image'], data['label'], order[i], positions, state.step, key)
        if bad_step is not None:
            batch['image'] += jnp.where(state.step == bad_step, jnp.nan, 0.0).astype(batch['image'].dtype)
        # Dropout alone differs from device to device: its mask belongs to the device's part of the batch.
        dropout_key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
        updated, new = step_fn(state, batch, jax.random.fold_in(dropout_key, positions[0]))
        # The same on every device, for all of them are averages over all devices.
        finite = jnp.isfinite(jnp.stack([new[name] for name in names])).all()
        state = jax.tree.map(lambda after, before: jnp.where(finite, after, before), updated, state)
        return i + 1, finite, state, {name: put(values, new[name], i) for name, values in metrics.items()}

    empty = {name: jnp.zeros(order.shape[0]) for name in names}
    if per_layer_grad_norms:
        empty['per_layer_grad_norms'] = jnp.zeros((order.shape[0], len(kernel_paths(state.params))))
    carry = (start, jnp.bool_(True), state, empty)
    _, _, state, metrics = jax.lax.while_loop(lambda carry: (carry[0] < start + count) & carry[1], body, carry)
    return state, metrics


def parallel_train_steps(step_fn: Callable, load_fn: Callable, *, per_layer_grad_norms: bool = False) -> Callable:
    """`train_steps` on all devices: takes and returns an un-stacked, replicated state and gives its memory away."""
    run = kernels.enabled()(
        functools.partial(train_steps, step_fn=step_fn, load_fn=load_fn, per_layer_grad_norms=per_layer_grad_norms)
    )
    return parallel(run, in_axes=(None, 0, None, None, None, None, None), donate_argnums=(0,))
