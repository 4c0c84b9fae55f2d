"""Learning-rate schedules (functions from the step to the rate) and optimizers, all from optax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from resnet_jax.config import OPTIMIZERS, TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.models.whitening import LAYER as WHITENING
from resnet_jax.training.muon import muon
from resnet_jax.typing import PyTree


def create_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
    step_factor: float = 0.1,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step, for `total_steps` steps.

    'cosine', 'linear', 'step' and 'constant' start with a linear warm-up from 0 to `peak` (Goyal et al. 2017, section 2.2).
    'cosine' then falls to 0 (Loshchilov and Hutter 2017, without restarts), 'linear' too, along a line; 'step' is multiplied
    by `step_factor` at each of the `milestones`, fractions of `total_steps`. 'one_cycle' has its own warm-up: up from peak /
    25 over the first 30 % of the steps and down to peak / 250,000, along cosines (Smith and Topin 2018; the defaults of
    PyTorch's OneCycleLR).

    Raises:
      ConfigError: an unknown name, or a warm-up that leaves no step to train.
    """
    if name == 'one_cycle':
        return optax.cosine_onecycle_schedule(total_steps, peak)
    if warmup_steps >= total_steps:
        raise ConfigError(
            f'the warm-up takes {warmup_steps} steps and the whole run {total_steps}; lower warmup_epochs or raise num_epochs'
        )
    if name == 'cosine':
        main = optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
    elif name == 'linear':
        main = optax.linear_schedule(peak, 0.0, total_steps - warmup_steps)
    elif name == 'step':
        # Each part of a joined schedule counts from its own start.
        boundaries: dict[int, float] = {}
        for fraction in milestones:  # two of them may fall on the same step of a short run
            boundary = round(fraction * total_steps) - warmup_steps
            boundaries[boundary] = boundaries.get(boundary, 1.0) * step_factor
        if boundaries and min(boundaries) < 0:
            raise ConfigError(f'a milestone of {list(milestones)} lies in the warm-up; lower warmup_epochs or raise it')
        main = optax.piecewise_constant_schedule(peak, boundaries)
    elif name == 'constant':
        main = optax.constant_schedule(peak)
    else:
        raise ConfigError(f'unknown schedule {name!r}; expected one of cosine, linear, one_cycle, step, constant')
    if not warmup_steps:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), main], [warmup_steps])


def kernels_only(params: PyTree) -> PyTree:
    """Returns True for each kernel and False for each bias and BatchNorm parameter, which are vectors."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def parameter_groups(params: PyTree) -> PyTree:
    """Returns each parameter's group: what has a learning rate of its own.

    'kernel' of a convolution, 'head' (the kernel of a linear layer), 'bias' (any vector, BatchNorm's included), and of a
    whitening layer 'whitening_bias' and 'whitening_kernel'.
    """

    def group(path: Sequence[Any], parameter: jax.Array) -> str:
        names = [key.key for key in path]
        if WHITENING in names:
            return f'whitening_{names[-1]}'
        return 'bias' if parameter.ndim < 2 else 'head' if parameter.ndim == 2 else 'kernel'

    return jax.tree_util.tree_map_with_path(group, params)


def _is_frozen(params: PyTree) -> PyTree:
    return jax.tree.map(lambda group: group == 'whitening_kernel', parameter_groups(params))


MakeOptimizer = Callable[[optax.Schedule, TrainConfig], optax.GradientTransformation]
_REGISTERED: dict[str, MakeOptimizer] = {}


def register_optimizer(name: str, make: MakeOptimizer) -> None:
    """Adds an optimizer of your own, for the config's `optimizer`.

    Args:
      name: how configs call it; must be new.
      make: is called as `make(schedule, config)`, where `schedule` maps the step to the learning rate, and returns an
        `optax.GradientTransformation`.

    Raises:
      ConfigError: there is an optimizer of this name.
    """
    if name in OPTIMIZERS:
        raise ConfigError(f'optimizer {name!r} exists already: expected a new name')
    _REGISTERED[name] = make
    OPTIMIZERS.append(name)


def create_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    config: TrainConfig | None = None,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = False,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip_norm: float = 0.0,
    bias_scale: float = 1.0,
    head_scale: float = 1.0,
    whitening_bias_schedule: optax.Schedule | None = None,
    muon_momentum: float = 0.6,
    muon_steps: int = 3,
) -> optax.GradientTransformation:
    """Returns 'sgd', 'adam' or 'adamw', each the same as PyTorch's of that name, or 'muon'.

    For 'sgd' and 'adam' the weight decay is coupled: weight_decay * parameter is added to the gradient (after clipping)
    before the momentum. For 'adamw' it is decoupled and scaled by the learning rate (Loshchilov and Hutter 2019).
    'muon' is Muon for the kernels of convolutions, which it does not decay since it keeps their norm, and SGD for the rest.

    Args:
      schedule: the learning rate; of 'muon' that of the kernels.
      config: for an optimizer that was registered, which gets this and the schedule and none of what follows.
      bias_scale, head_scale: factors of it for the groups 'bias' and 'head' of `parameter_groups`. Their weight decay is
        divided by the factor, so that it takes as much from every parameter, at whatever rate that learns.
      whitening_bias_schedule: must be given for a network with a whitening layer, whose kernel then stays as it is;
        the learning rate of its bias.
      muon_momentum, muon_steps: see `muon`.

    Raises:
      ConfigError: an unknown name.
    """
    frozen = optax.set_to_zero()
    if name in _REGISTERED:
        tx = _REGISTERED[name](schedule, config or TrainConfig(optimizer=name))
        if whitening_bias_schedule is None:
            return tx
        # No gradient is not yet no weight decay: the layer's kernel stays as it is.
        return optax.partition({True: frozen, False: tx}, _is_frozen)
    mask = None if decay_norm_and_bias else kernels_only

    def rule(scale: float = 1.0, rate: optax.Schedule | None = None) -> list[optax.GradientTransformation]:
        if rate is None:
            rate = schedule if scale == 1.0 else lambda step: scale * schedule(step)
        decay = weight_decay / scale
        coupled = [optax.add_decayed_weights(decay, mask)] if decay else []
        if name in ('sgd', 'muon'):
            return [*coupled, optax.sgd(rate, momentum or None, nesterov)]
        if name == 'adam':
            return [*coupled, optax.adam(rate)]
        if name == 'adamw':
            return [optax.adamw(rate, weight_decay=decay, mask=mask)]
        raise ConfigError(f'unknown optimizer {name!r}; expected one of {", ".join(OPTIMIZERS)}')

    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if name != 'muon' and bias_scale == head_scale == 1.0 and whitening_bias_schedule is None:
        return optax.chain(*clip, *rule())
    kernels = [muon(schedule, muon_momentum, nesterov, muon_steps)] if name == 'muon' else rule()
    groups = {
        'kernel': optax.chain(*kernels),
        'head': optax.chain(*rule(head_scale)),
        'bias': optax.chain(*rule(bias_scale)),
        'whitening_bias': optax.chain(*rule(bias_scale, whitening_bias_schedule)),
        'whitening_kernel': frozen,
    }
    return optax.chain(*clip, optax.partition(groups, parameter_groups))
