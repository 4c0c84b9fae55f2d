"""The state of a run on the device."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.models.whitening import LAYER as WHITENING


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; the rest (model, optimizer, data) does not change during a run.

    Attributes:
      step: int32 scalar, steps done.
      params: float32 parameters.
      batch_stats: float32 running means and variances of BatchNorm; empty for a network without.
      opt_state: the optimizer's.
      ema: {'params', 'batch_stats'} averaged over the steps, or {} if the config has no `ema_decay`.
      lookahead: {'params', 'batch_stats'}, the slow weights of `lookahead.pull`, or {} if the config has no `lookahead_every`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any
    lookahead: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def create_train_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: Sequence[int],
    seed: int,
    *,
    ema: bool = False,
    lookahead: bool = False,
    whitening_kernel: np.ndarray | None = None,
) -> TrainState:
    """Initialises parameters, statistics and optimizer, as a function of the seed and the whitening kernel alone.

    Args:
      image_shape: (height, width, channels).
      ema: also keep an exponential moving average, which starts as a copy.
      lookahead: also keep slow weights, which start as a copy.
      whitening_kernel: for a network with a whitening layer, what `whitening_kernel` gives.
    """

    @jax.jit
    def create(kernel):
        variables = model.init(jax.random.key(seed), jnp.zeros((1, *image_shape), jnp.float32), train=False)
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        if kernel is not None:
            params = {**params, WHITENING: {**params[WHITENING], 'kernel': kernel}}

        def copy(wanted):
            return jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if wanted else {}

        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), copy(ema), copy(lookahead))

    return create(whitening_kernel)
