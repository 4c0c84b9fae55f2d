"""The state of a run on the device."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.models.whitening import LAYER as WHITENING
from resnet_jax.runtime.devices import options_for_init
from resnet_jax.training.freezing import NOTHING, Frozen
from resnet_jax.typing import PyTree

_PROXY = 5  # a random stream; differs from those in loading.py


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and writes; model, optimizer and data do not change during a run.

    Attributes:
      step: int32 scalar, number of finished steps.
      params: float32 parameters.
      batch_stats: float32 running means and variances of BatchNorm; empty without BatchNorm.
      opt_state: state of the optimizer, for the parameters that are not frozen.
      ema: {'params', 'batch_stats'} averaged over the steps, or {} if the config has no `ema_decay`.
      lookahead: {'params', 'batch_stats'}, the slow weights of `lookahead.pull`, or {} without lookahead.
      proxy: {'params', 'batch_stats', 'opt_state'} of the network that selects examples, or {} if the config has none.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema: PyTree
    lookahead: PyTree = flax.struct.field(default_factory=dict)
    proxy: PyTree = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables that `model.apply` takes."""
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
    loaded: Mapping[str, np.ndarray] | None = None,
    frozen: Frozen = NOTHING,
    proxy: tuple[nn.Module, optax.GradientTransformation] | None = None,
) -> TrainState:
    """Initialises parameters, statistics and optimizer state; they depend only on the arguments.

    Args:
      image_shape: (height, width, channels).
      ema: also keep an exponential moving average, initialised as a copy.
      lookahead: also keep slow weights, initialised as a copy.
      whitening_kernel: the result of `models.whitening.whitening_kernel`, for a network with a whitening layer.
      loaded: variables that replace the initialised ones, by name with collection, such as 'params/conv1/kernel'.
      frozen: variables for which the optimizer has no state.
      proxy: network and optimizer of the proxy, if there is one.
    """

    def create(key: jax.Array, kernel: np.ndarray | None, loaded: Mapping[str, np.ndarray]) -> TrainState:
        def init(network: nn.Module, key: jax.Array) -> tuple[PyTree, PyTree]:
            variables = network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
            params = variables['params']
            if WHITENING in params and kernel is not None:
                params = {**params, WHITENING: {**params[WHITENING], 'kernel': kernel}}
            return params, variables.get('batch_stats', {})

        params, batch_stats = init(model, key)
        if loaded:
            flat = flatten_dict({'params': params, 'batch_stats': batch_stats}, sep='/')
            merged = unflatten_dict({**flat, **loaded}, sep='/')
            params, batch_stats = merged['params'], merged.get('batch_stats', {})

        def copy(wanted: bool) -> PyTree:
            return jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if wanted else {}

        small = {}
        if proxy:
            small['params'], small['batch_stats'] = init(proxy[0], jax.random.fold_in(key, _PROXY))
            small['opt_state'] = proxy[1].init(small['params'])
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, batch_stats, tx.init(frozen.split(params)[0]), copy(ema), copy(lookahead), small)

    key = jax.random.key(seed)
    state: TrainState = jax.jit(create, compiler_options=options_for_init(key))(key, whitening_kernel, loaded or {})
    return state
