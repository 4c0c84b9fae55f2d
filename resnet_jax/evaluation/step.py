"""The evaluation step, and the loop over batches around it that runs on the device."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from resnet_jax.data.augment import normalize, tta_logits
from resnet_jax.ops import kernels
from resnet_jax.runtime.devices import AXIS, parallel, put


def eval_step(variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, tta: str = 'none') -> dict[str, jax.Array]:
    """Sums over the examples of a batch whose mask is 1.

    Args:
      variables: 'params' and 'batch_stats'.
      batch: 'image' normalised, 'label' int32 `[batch]`, 'mask' float32 `[batch]`.
      tta: see `tta_logits`.

    Returns:
      'loss' (cross entropy, summed), float32 scalar, and 'confusion', int32 `[num_classes, num_classes]`: counts by label
      (row) and prediction (column).
    """
    apply: Any = functools.partial(model.apply, variables, train=False)
    logits = tta_logits(apply, batch['image'], tta)
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
        return put(losses, sums['loss'], i), confusion + sums['confusion']

    empty = (jnp.zeros(-(-size // batch_size)), jnp.zeros((num_classes, num_classes), jnp.int32))
    losses, confusion = jax.lax.psum(jax.lax.fori_loop(start, start + count, body, empty), AXIS)
    return {'loss': losses, 'confusion': confusion}


def parallel_eval_steps(model: nn.Module, mean, std, dtype, batch_size: int, num_classes: int, tta: str = 'none') -> Callable:
    """`eval_steps` on all devices, for uint8 images."""
    run = functools.partial(
        eval_steps,
        batch_size=batch_size,
        step_fn=functools.partial(eval_step, model=model, tta=tta),
        load_fn=functools.partial(normalize, mean=mean, std=std, dtype=dtype),
        num_classes=num_classes,
    )
    return parallel(kernels.enabled()(run), in_axes=(None, 0, None, None, None))
