"""The training step: a pure function of state, batch and key."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from resnet_jax.runtime.devices import AXIS
from resnet_jax.training.freezing import NOTHING, Frozen
from resnet_jax.training.state import TrainState
from resnet_jax.typing import PyTree


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    per_layer_grad_norms: bool = False,
    lookahead_fn: Callable[..., tuple[PyTree, PyTree]] | None = None,
    select_fn: Callable[..., tuple[PyTree, PyTree, jax.Array]] | None = None,
    frozen: Frozen = NOTHING,
    axis_name: str | None = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs one update on this device's shard of a batch; averages gradients, statistics and metrics over `axis_name`.

    Args:
      batch: 'image' `[batch, height, width, channels]`, normalised; 'label' float32 `[batch, num_classes]`, rows sum to 1;
        optionally 'weighted_label', which replaces the label in the loss.
      accumulation: number of microbatches; must divide `batch`. BatchNorm sees one microbatch at a time.
      ema_decay: 0 for no moving average. Early steps use the smaller (1 + step) / (10 + step), which forgets the initial
        parameters.
      per_layer_grad_norms: also return 'per_layer_grad_norms'.
      lookahead_fn: `lookahead.pull` with its options bound; None for no lookahead.
      select_fn: `selection.select_hardest` with its options bound; None to train on the whole batch.
      frozen: variables that stay unchanged to the bit; their gradients are not computed, and `tx` does not see them.

    Returns:
      The new state and the float32 scalars 'loss', 'accuracy' (against the largest label) and 'grad_norm' (before clipping).
      'per_layer_grad_norms', float32 `[kernels]`, has the gradient norm of each kernel in the order of `kernel_paths`; 0 for
      frozen kernels. With `select_fn` these values are for the selected examples, and 'proxy_loss' is the proxy's loss on the
      whole batch.
    """
    proxy, proxy_metrics = state.proxy, {}
    if select_fn is not None:
        proxy_key = jax.random.fold_in(dropout_key, 2**31 - 1)  # microbatches fold in 0, 1, ...
        batch, proxy, proxy_loss = select_fn(proxy, state.step, batch, proxy_key, axis_name=axis_name)
        proxy_metrics = {'proxy_loss': proxy_loss}

    moving, still = frozen.split(state.params)

    def loss_fn(
        moving: PyTree, batch_stats: PyTree, part: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
        with frozen.statistics():
            logits, updates = model.apply(
                {'params': frozen.merge(moving, still), 'batch_stats': batch_stats},
                part['image'],
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': key},
            )
        loss = optax.softmax_cross_entropy(logits, part.get('weighted_label', part['label'])).mean()
        accuracy = (logits.argmax(-1) == part['label'].argmax(-1)).mean()
        return loss, (updates.get('batch_stats', {}), accuracy)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if accumulation == 1:
        (loss, (batch_stats, accuracy)), grads = grad_fn(moving, state.batch_stats, batch, dropout_key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)

        def add(carry: PyTree, part_and_index: PyTree) -> tuple[PyTree, None]:
            batch_stats, total = carry
            part, index = part_and_index
            key = jax.random.fold_in(dropout_key, index)
            (loss, (batch_stats, accuracy)), grads = grad_fn(moving, batch_stats, part, key)
            return (batch_stats, jax.tree.map(jnp.add, total, (loss, accuracy, grads))), None

        zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, moving))
        (batch_stats, total), _ = jax.lax.scan(add, (state.batch_stats, zeros), (parts, jnp.arange(accumulation)))
        loss, accuracy, grads = jax.tree.map(lambda x: x / accumulation, total)

    if axis_name is not None:
        loss, accuracy, grads, batch_stats = jax.lax.pmean((loss, accuracy, grads, batch_stats), axis_name)
    updates, opt_state = tx.update(grads, state.opt_state, moving)
    params = frozen.merge(optax.apply_updates(moving, updates), still)
    slow = state.lookahead
    if lookahead_fn is not None:
        fast, slow = lookahead_fn(state.step + 1, {'params': params, 'batch_stats': batch_stats}, slow)
        slow = frozen.keep(slow, state.lookahead)
        params, batch_stats = fast['params'], fast['batch_stats']
    # Needed after lookahead too: its average of two equal values may differ from them in the last bit.
    kept = frozen.keep({'params': params, 'batch_stats': batch_stats}, state.variables)
    params, batch_stats = kept['params'], kept['batch_stats']
    ema = state.ema
    if ema_decay:
        count = state.step.astype(jnp.float32)
        rate = 1.0 - jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
        ema = frozen.keep(optax.incremental_update({'params': params, 'batch_stats': batch_stats}, ema, rate), ema)
    metrics = {'loss': loss, 'accuracy': accuracy, 'grad_norm': optax.tree.norm(grads), **proxy_metrics}
    if per_layer_grad_norms:
        everywhere = frozen.merge(grads, jax.tree.map(jnp.zeros_like, still))
        leaves = [leaf for leaf in jax.tree.leaves(everywhere) if leaf.ndim > 1]
        metrics['per_layer_grad_norms'] = jnp.stack([jnp.linalg.norm(leaf.reshape(-1)) for leaf in leaves])
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema, slow, proxy), metrics


def kernel_paths(params: PyTree) -> list[str]:
    """Returns the paths of the layers with a kernel, such as 'layer1_0/conv1', in the order of the leaves of `params`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return ['/'.join(key.key for key in path[:-1]) for path, leaf in leaves if leaf.ndim > 1]
