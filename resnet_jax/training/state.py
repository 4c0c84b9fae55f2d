"""The state of a run on the device."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; the rest (model, optimizer, data) does not change during a run.

    Attributes:
      step: int32 scalar, steps done.
      params: float32 parameters.
      batch_stats: float32 running means and variances of BatchNorm; empty for a network without.
      opt_state: the optimizer's.
      ema: {'params', 'batch_stats'} averaged over the steps, or {} if the config has no `ema_decay`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def create_train_state(
    model: nn.Module, tx: optax.GradientTransformation, image_shape: Sequence[int], seed: int, *, ema: bool = False
) -> TrainState:
    """Initialises parameters, statistics and optimizer, as a function of the seed alone.

    Args:
      image_shape: (height, width, channels).
      ema: also keep an exponential moving average, which starts as a copy.
    """

    def create(key):
        variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        average = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if ema else {}
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), average)

    key = jax.random.key(seed)
    # XLA:CPU takes 13 s at its default level for ResNet-18's many random numbers, 4 s at this one, and they are the same.
    # Within eval_shape, where the key is abstract, nothing is compiled and no option allowed.
    quick = jax.default_backend() == 'cpu' and not isinstance(key, jax.core.Tracer)
    return jax.jit(create, compiler_options={'xla_backend_optimization_level': 1} if quick else None)(key)
