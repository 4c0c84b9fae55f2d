"""The training and the evaluation step, and the one place where they are made data-parallel."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax import failpoints, kernels
from resnet_jax.data.augment import augment, mirrored_in_epoch, normalize, over_views
from resnet_jax.training.state import TrainState

AXIS = 'batch'

# Streams of randomness. Each is folded into the seed's key before the step is, so that they never meet.
_AUGMENT, _MIXUP, _DROPOUT, _FLIP = 1, 2, 3, 4


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    layer_norms: bool = False,
    lookahead_fn: Callable | None = None,
    select_fn: Callable | None = None,
    axis_name: str | None = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's part of a batch; gradients, statistics and metrics are averaged over `axis_name`.

    Args:
      batch: 'image' `[batch, height, width, channels]`, normalised; 'label' float32 `[batch, num_classes]`, rows sum to 1.
      accumulation: parts in which the gradient is computed; must divide `batch`. BatchNorm sees one part at a time.
      select_fn: `selection.select_hardest` with its options; None to train on the whole batch.
      ema_decay: 0 for none. Early steps use the smaller (1 + step) / (10 + step), which forgets the initial parameters.
      layer_norms: also return 'layer_grad_norms'.
      lookahead_fn: `lookahead.pull` but for step, fast and slow; None for no lookahead.

    Returns:
      The new state and float32 scalars 'loss', 'accuracy' (of the largest label) and 'grad_norm' (before clipping);
      'layer_grad_norms', float32 `[kernels]`, are the parts of the last in the order of `kernel_paths`.
      With `select_fn` they are of the selected examples, and 'proxy_loss' is the proxy's, of the whole batch.
    """
    proxy, proxy_metrics = state.proxy, {}
    if select_fn is not None:
        proxy_key = jax.random.fold_in(dropout_key, 2**31 - 1)  # the parts of a batch have 0, 1, ...
        batch, proxy, proxy_loss = select_fn(proxy, state.step, batch, proxy_key, axis_name=axis_name)
        proxy_metrics = {'proxy_loss': proxy_loss}

    def loss_fn(params, batch_stats, part, key):
        logits, updates = model.apply(
            {'params': params, 'batch_stats': batch_stats},
            part['image'],
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': key},
        )
        loss = optax.softmax_cross_entropy(logits, part['label']).mean()
        accuracy = (logits.argmax(-1) == part['label'].argmax(-1)).mean()
        return loss, (updates.get('batch_stats', {}), accuracy)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if accumulation == 1:
        (loss, (batch_stats, accuracy)), grads = grad_fn(state.params, state.batch_stats, batch, dropout_key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)

        def add(carry, part_and_index):
            batch_stats, total = carry
            part, index = part_and_index
            key = jax.random.fold_in(dropout_key, index)
            (loss, (batch_stats, accuracy)), grads = grad_fn(state.params, batch_stats, part, key)
            return (batch_stats, jax.tree.map(jnp.add, total, (loss, accuracy, grads))), None

        zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        (batch_stats, total), _ = jax.lax.scan(add, (state.batch_stats, zeros), (parts, jnp.arange(accumulation)))
        loss, accuracy, grads = jax.tree.map(lambda x: x / accumulation, total)

    if axis_name is not None:
        loss, accuracy, grads, batch_stats = jax.lax.pmean((loss, accuracy, grads, batch_stats), axis_name)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    slow = state.lookahead
    if lookahead_fn is not None:
        fast, slow = lookahead_fn(state.step + 1, {'params': params, 'batch_stats': batch_stats}, slow)
        params, batch_stats = fast['params'], fast['batch_stats']
    ema = state.ema
    if ema_decay:
        count = state.step.astype(jnp.float32)
        rate = 1.0 - jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(lambda old, new: old + rate * (new - old), ema, {'params': params, 'batch_stats': batch_stats})
    metrics = {'loss': loss, 'accuracy': accuracy, 'grad_norm': optax.tree.norm(grads), **proxy_metrics}
    if layer_norms:
        leaves = [leaf for leaf in jax.tree.leaves(grads) if leaf.ndim > 1]
        metrics['layer_grad_norms'] = jnp.stack([jnp.linalg.norm(leaf.reshape(-1)) for leaf in leaves])
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema, slow, proxy), metrics


def kernel_paths(params: Any) -> list[str]:
    """Returns the layers that have a kernel, such as 'layer1_0/conv1', in the order of the leaves of `params`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return ['/'.join(key.key for key in path[:-1]) for path, leaf in leaves if leaf.ndim > 1]


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
    layer_norms: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs steps `start` to `start + count` of an epoch on one device, without going back to Python between them.

    Args:
      positions: int32 `[batch]`: this device's places in the global batch.
      data: 'image' and 'label': the whole training set.
      order: int32 `[steps_per_epoch, batch_size]`: the examples of each step of this epoch.
      key: of the run, as `seed_key` returns it; an argument, so that the compiled program serves for every seed.
      start, count: int32 scalars. They are traced, so that one compiled program serves for any number of steps.
      layer_norms: `step_fn` returns 'layer_grad_norms' too.

    A step whose loss or gradient is not finite changes nothing of the state, and no step follows it.

    Returns:
      The new state and, for each metric, float32 `[steps_per_epoch]`, filled from `start` to `start + count` or to the step
      that was not finite; 'layer_grad_norms' is `[steps_per_epoch, kernels]`.
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
        return i + 1, finite, state, {name: _put(values, new[name], i) for name, values in metrics.items()}

    empty = {name: jnp.zeros(order.shape[0]) for name in names}
    if layer_norms:
        empty['layer_grad_norms'] = jnp.zeros((order.shape[0], len(kernel_paths(state.params))))
    carry = (start, jnp.bool_(True), state, empty)
    _, _, state, metrics = jax.lax.while_loop(lambda carry: (carry[0] < start + count) & carry[1], body, carry)
    return state, metrics


def _put(values: jax.Array, value: jax.Array, i: jax.Array) -> jax.Array:
    """`values.at[i].set(value)`, which would be a scatter."""
    return jax.lax.dynamic_update_index_in_dim(values, value, i, 0)


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, test_views: str = 'none'
) -> dict[str, jax.Array]:
    """Sums over the examples of a batch whose mask is 1.

    Args:
      variables: 'params' and 'batch_stats'.
      batch: 'image' normalised, 'label' int32 `[batch]`, 'mask' float32 `[batch]`.
      test_views: see `over_views`.

    Returns:
      'loss' (cross entropy, summed), float32 scalar, and 'confusion', int32 `[num_classes, num_classes]`: counts by label
      (row) and prediction (column).
    """
    apply: Any = functools.partial(model.apply, variables, train=False)
    logits = over_views(apply, batch['image'], test_views)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    classes = logits.shape[-1]
    actual = jax.nn.one_hot(batch['label'], classes) * batch['mask'][:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes)
    return {'loss': (loss * batch['mask']).sum(), 'confusion': (actual.T @ predicted).astype(jnp.int32)}


def eval_steps(
    variables: Any,
    positions: jax.Array,
    data: dict[str, jax.Array],
    start: jax.Array,
    count: jax.Array,
    *,
    batch_size: int,
    step_fn: Callable,
    load_fn: Callable,
    num_classes: int,
) -> dict[str, jax.Array]:
    """Runs `eval_step` on batches `start` to `start + count` of the data, over all devices; the last one is padded.

    Returns:
      'loss', float32 `[batches]`: the sum of each batch, apart, so that the total does not depend on how many batches one
      call takes; and 'confusion', int32 `[num_classes, num_classes]`, summed.
    """
    size = data['label'].shape[0]

    def body(i, carry):
        losses, confusion = carry
        example = i * batch_size + positions
        chosen = jnp.minimum(example, size - 1)
        batch = {'image': load_fn(data['image'][chosen]), 'label': data['label'][chosen]}
        sums = step_fn(variables, {**batch, 'mask': (example < size).astype(jnp.float32)})
        return _put(losses, sums['loss'], i), confusion + sums['confusion']

    empty = (jnp.zeros(-(-size // batch_size)), jnp.zeros((num_classes, num_classes), jnp.int32))
    losses, confusion = jax.lax.psum(jax.lax.fori_loop(start, start + count, body, empty), AXIS)
    return {'loss': losses, 'confusion': confusion}


def replicate(tree: Any) -> Any:
    """Places arrays on every local device, the way pmap leaves its results, so that it compiles only once."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def device_positions(batch_size: int) -> np.ndarray:
    """Returns int32 `[local devices, batch_size / devices]`: the places in the global batch that each local device takes."""
    rows = np.arange(batch_size, dtype=np.int32).reshape(jax.device_count(), -1)
    first = jax.process_index() * jax.local_device_count()
    return rows[first : first + jax.local_device_count()]


def seed_key(seed: int) -> np.ndarray:
    """Returns uint32 `[2]`: the data of a run's key, from which all of its randomness on the device follows."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def compile_parallel(run: Any, *arguments: Any) -> Callable:
    """Compiles what `parallel_train_steps` or `parallel_eval_steps` returned, for arguments like these.

    Among several processes it returns `run` itself, which compiles when it is called: what is compiled ahead of time expects
    the arguments of all processes together, not this one's.
    """
    return run.lower(*arguments).compile() if jax.process_count() == 1 else run


def parallel_train_steps(step_fn: Callable, load_fn: Callable, *, layer_norms: bool = False) -> Callable:
    """`train_steps` on all devices: takes and returns an un-stacked, replicated state and gives its memory away."""
    run = kernels.enabled()(functools.partial(train_steps, step_fn=step_fn, load_fn=load_fn, layer_norms=layer_norms))
    in_axes = (None, 0, None, None, None, None, None)
    return jax.pmap(run, axis_name=AXIS, in_axes=in_axes, out_axes=None, donate_argnums=(0,))


def parallel_eval_steps(
    model: nn.Module, mean, std, dtype, batch_size: int, num_classes: int, test_views: str = 'none'
) -> Callable:
    """`eval_steps` on all devices, for uint8 images."""
    run = functools.partial(
        eval_steps,
        batch_size=batch_size,
        step_fn=functools.partial(eval_step, model=model, test_views=test_views),
        load_fn=functools.partial(normalize, mean=mean, std=std, dtype=dtype),
        num_classes=num_classes,
    )
    return jax.pmap(kernels.enabled()(run), axis_name=AXIS, in_axes=(None, 0, None, None, None), out_axes=None)
