"""Selection by a proxy: a small network, trained alongside the main one, selects which part of each batch to train on.

The idea is from github.com/KellerJordan/cifar10-airbench, airbench96_faster.py: the main network trains on the half of each
batch that has the largest loss in the proxy. The source trains the proxy first, alone, and stores its selections. Here both
networks train in the same step. The selections are equal, because the proxy's state never depends on the main network; nothing
is stored, and the proxy resumes from a checkpoint like everything else.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from resnet_jax.typing import PyTree


def select_hardest(
    proxy: dict[str, PyTree],
    step: jax.Array,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    count: int,
    update_every: int = 1,
    axis_name: str | None,
) -> tuple[dict[str, jax.Array], dict[str, PyTree], jax.Array]:
    """Returns the `count` examples with the largest loss in this device's shard of a batch, in their original order.

    The proxy computes the loss of every example of the shard in training mode. Every `update_every` steps, starting with the
    first, the proxy then trains on the selected examples' mean loss; its BatchNorm statistics are updated from the whole shard
    at every step. Each device selects from its own shard, so the selection depends on the number of devices.

    Args:
      proxy: 'params', 'batch_stats' and 'opt_state' of the proxy.
      step: int32 scalar, number of finished steps.
      batch: 'image' and 'label' as `train_step` takes them.
      key: PRNG key for the proxy's dropout.

    Returns:
      The selected examples, the new state of the proxy, and the proxy's mean loss over the global batch.
    """

    def losses_of(params: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {'params': params, 'batch_stats': proxy['batch_stats']}
        logits, updates = model.apply(variables, batch['image'], train=True, mutable=['batch_stats'], rngs={'dropout': key})
        return optax.softmax_cross_entropy(logits, batch['label']), updates.get('batch_stats', {})

    def mean(values: PyTree) -> PyTree:
        return values if axis_name is None else jax.lax.pmean(values, axis_name)

    losses, batch_stats = losses_of(proxy['params'])
    # Keep the batch's order: sorted by loss, the microbatches of gradient accumulation would differ in difficulty.
    chosen = jnp.sort(jax.lax.top_k(losses, count)[1])

    def update(params: PyTree, opt_state: optax.OptState) -> tuple[PyTree, optax.OptState]:
        # A comparison instead of a scatter into zeros.
        weights = (jnp.arange(len(losses))[:, None] == chosen[None, :]).any(axis=1) / jnp.float32(count)
        # Computes the losses again: otherwise the residuals of the gradient would be written in steps without an update too.
        # If the proxy is updated at each step, XLA computes the losses once.
        (grads,) = jax.vjp(losses_of, params, has_aux=True)[1](weights)
        updates, opt_state = tx.update(mean(grads), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = proxy['params'], proxy['opt_state']
    if update_every == 1:
        params, opt_state = update(params, opt_state)
    else:
        due = step % update_every == 0  # equal on all devices, as the collective in `mean` requires
        params, opt_state = jax.lax.cond(due, update, lambda params, opt_state: (params, opt_state), params, opt_state)
    selected = jax.tree.map(lambda values: values[chosen], batch)
    new = {'params': params, 'batch_stats': mean(batch_stats), 'opt_state': opt_state}
    return selected, new, mean(losses.mean())
