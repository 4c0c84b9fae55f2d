"""The evaluation step, and the loop over batches around it that runs on the device."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from resnet_jax.runtime.devices import AXIS, parallel, put
from resnet_jax.typing import Variables

LogitsFn = Callable[[Variables, jax.Array], jax.Array]


def eval_step(variables: Variables, batch: dict[str, jax.Array], *, logits_fn: LogitsFn) -> dict[str, jax.Array]:
    """Sums the loss and the confusion matrix over the examples of a batch whose mask is 1.

    Args:
      variables: 'params' and 'batch_stats'.
      batch: 'image' in the form that `logits_fn` takes, 'label' int32 `[batch]`, 'mask' float32 `[batch]`.
      logits_fn: function from variables and images to float32 logits `[batch, num_classes]`: see `Classifier.logits_fn`.

    Returns:
      'loss' (cross entropy, summed), float32 scalar, and 'confusion', int32 `[num_classes, num_classes]`: counts by label
      (row) and prediction (column).
    """
    logits = logits_fn(variables, batch['image'])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    classes = logits.shape[-1]
    actual = jax.nn.one_hot(batch['label'], classes) * batch['mask'][:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes)
    return {'loss': (loss * batch['mask']).sum(), 'confusion': (actual.T @ predicted).astype(jnp.int32)}


def eval_steps(
    variables: Variables,
    positions: jax.Array,
    data: dict[str, jax.Array],
    start: jax.Array,
    count: jax.Array,
    *,
    batch_size: int,
    num_classes: int,
    logits_fn: LogitsFn,
) -> dict[str, jax.Array]:
    """Runs `eval_step` on batches `start` to `start + count` of the data, over all devices; the last batch is padded.

    Args:
      positions: int32 `[batch]`: this device's positions in a batch.
      data: 'image' uint8 `[n, height, width, channels]`, 'label' int32 `[n]`, and 'count', the number of images before padding.
      batch_size: global batch size, over all devices.

    Returns:
      'loss', float32 `[batches]`: one sum for each batch, so that the total does not depend on the number of batches per call;
      and 'confusion', int32 `[num_classes, num_classes]`, summed over the batches.
    """
    size = data['label'].shape[0]

    def body(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        losses, confusion = carry
        example = i * batch_size + positions
        chosen = jnp.minimum(example, size - 1)
        batch = {'image': data['image'][chosen], 'label': data['label'][chosen]}
        mask = (example < data['count']).astype(jnp.float32)
        sums = eval_step(variables, {**batch, 'mask': mask}, logits_fn=logits_fn)
        return put(losses, sums['loss'], i), confusion + sums['confusion']

    empty = (jnp.zeros(-(-size // batch_size)), jnp.zeros((num_classes, num_classes), jnp.int32))
    losses, confusion = jax.lax.psum(jax.lax.fori_loop(start, start + count, body, empty), AXIS)
    return {'loss': losses, 'confusion': confusion}


def parallel_eval_steps(logits_fn: LogitsFn, batch_size: int, num_classes: int) -> jax.stages.Wrapped:
    """Returns `eval_steps` mapped over all devices."""
    run = functools.partial(eval_steps, batch_size=batch_size, num_classes=num_classes, logits_fn=logits_fn)
    return parallel(run, in_axes=(None, 0, None, None, None))
