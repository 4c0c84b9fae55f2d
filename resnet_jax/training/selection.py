"""Selection by a proxy: a small network, trained beside the main one, chooses the part of each batch that is worth its time.

The idea is that of github.com/KellerJordan/cifar10-airbench, airbench96_faster.py: of each batch the main network trains on
the half that has the largest loss under a proxy. There the proxy is trained first, alone, and the choices are kept; its state
at a step depends on nothing that the main network does, so that training it in the same step chooses the same, keeps
nothing, and is continued from a checkpoint like all else.
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
    """Returns the `count` examples of this device's part of a batch that have the largest loss, in their order in it.

    The proxy computes the loss of each example as in training, on the whole part. At every `update_every`-th step, the first
    one included, it then trains on the chosen examples, by the gradient of their mean loss; its BatchNorm takes the whole
    part into its statistics at every step. Each device chooses from its own part: another number of devices, another choice.

    Args:
      proxy: 'params', 'batch_stats' and 'opt_state' of the proxy.
      step: int32 scalar, steps done.
      batch: 'image' and 'label' as `train_step` takes them.
      key: for the proxy's dropout.

    Returns:
      The chosen part of the batch, the new state of the proxy, and the proxy's mean loss over the whole batch of all devices.
    """

    def losses_of(params: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {'params': params, 'batch_stats': proxy['batch_stats']}
        logits, updates = model.apply(variables, batch['image'], train=True, mutable=['batch_stats'], rngs={'dropout': key})
        return optax.softmax_cross_entropy(logits, batch['label']), updates.get('batch_stats', {})

    def mean(values: PyTree) -> PyTree:
        return values if axis_name is None else jax.lax.pmean(values, axis_name)

    losses, gradient_of, batch_stats = jax.vjp(losses_of, proxy['params'], has_aux=True)
    # In the order of the batch: gradient accumulation takes it in parts, which should not be the harder and the easier ones.
    chosen = jnp.sort(jax.lax.top_k(losses, count)[1])

    def update(params: PyTree, opt_state: optax.OptState) -> tuple[PyTree, optax.OptState]:
        # Compared rather than scattered into an array of zeros.
        weights = (jnp.arange(len(losses))[:, None] == chosen[None, :]).any(axis=1) / jnp.float32(count)
        (grads,) = gradient_of(weights)
        updates, opt_state = tx.update(mean(grads), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = proxy['params'], proxy['opt_state']
    if update_every == 1:
        params, opt_state = update(params, opt_state)
    else:
        due = step % update_every == 0  # the same on all devices, which meet in `mean`
        params, opt_state = jax.lax.cond(due, update, lambda params, opt_state: (params, opt_state), params, opt_state)
    selected = jax.tree.map(lambda values: values[chosen], batch)
    new = {'params': params, 'batch_stats': mean(batch_stats), 'opt_state': opt_state}
    return selected, new, mean(losses.mean())
