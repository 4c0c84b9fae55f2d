"""The state of a run on the device."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

_PROXY = 5  # a stream of randomness beside those of step.py


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; the rest (model, optimizer, data) does not change during a run.

    Attributes:
      step: int32 scalar, steps done.
      params: float32 parameters.
      batch_stats: float32 running means and variances of BatchNorm; empty for a network without.
      opt_state: the optimizer's.
      ema: {'params', 'batch_stats'} averaged over the steps, or {} if the config has no `ema_decay`.
      proxy: {'params', 'batch_stats', 'opt_state'} of the network that selects examples, or {} if the config has none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any
    proxy: Any = flax.struct.field(default_factory=dict)

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
    proxy: tuple[nn.Module, optax.GradientTransformation] | None = None,
) -> TrainState:
    """Initialises parameters, statistics and optimizer, as a function of the seed alone.

    Args:
      image_shape: (height, width, channels).
      ema: also keep an exponential moving average, which starts as a copy.
      proxy: network and optimizer of the proxy, if there is one.
    """

    def init(network, key):
        variables = network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
        return variables['params'], variables.get('batch_stats', {})

    @jax.jit
    def create():
        key = jax.random.key(seed)
        params, batch_stats = init(model, key)
        average = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if ema else {}
        small = {}
        if proxy:
            small['params'], small['batch_stats'] = init(proxy[0], jax.random.fold_in(key, _PROXY))
            small['opt_state'] = proxy[1].init(small['params'])
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), average, proxy=small)

    return create()
