"""Learning-rate schedules (functions from the step to the rate) and optimizers, all from optax."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from resnet_jax.config import OPTIMIZERS, TrainConfig, choices
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
    milestones: Sequence[float] = TrainConfig.milestones,
    step_factor: float = TrainConfig.step_factor,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step, for `total_steps` steps.

    'cosine', 'linear', 'step' and 'constant' start with a linear warm-up from 0 to `peak` (Goyal et al. 2017, section 2.2).
    'cosine' then decays to 0 (Loshchilov and Hutter 2017, without restarts), 'linear' decays linearly to 0, and 'step' is
    multiplied by `step_factor` at each of the `milestones`, which are fractions of `total_steps`. 'one_cycle' has its own
    warm-up: it rises along a cosine from peak / 25 over the first 30 % of the steps, then falls along a cosine to
    peak / 250,000 (Smith and Topin 2018; the defaults of PyTorch's OneCycleLR).

    Raises:
      ConfigError: the name is unknown, the warm-up leaves no step to train, or a milestone lies in the warm-up.
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
        # Each part of a joined schedule counts its steps from its own start.
        boundaries: dict[int, float] = {}
        for fraction in milestones:  # in a short run, two milestones may fall on the same step
            boundary = round(fraction * total_steps) - warmup_steps
            boundaries[boundary] = boundaries.get(boundary, 1.0) * step_factor
        if boundaries and min(boundaries) < 0:
            raise ConfigError(f'a milestone of {list(milestones)} lies in the warm-up; lower warmup_epochs or raise it')
        main = optax.piecewise_constant_schedule(peak, boundaries)
    elif name == 'constant':
        main = optax.constant_schedule(peak)
    else:
        raise ConfigError(f'unknown schedule {name!r}; expected one of {", ".join(choices("schedule"))}')
    if not warmup_steps:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), main], [warmup_steps])


def kernels_only(params: PyTree) -> PyTree:
    """Returns a mask that is True for kernels and False for biases and BatchNorm parameters, which are vectors."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def parameter_groups(params: PyTree) -> PyTree:
    """Returns each parameter's group; every group has its own learning rate.

    The groups are 'kernel' (of a convolution), 'head' (the kernel of a linear layer), 'bias' (any vector, including
    BatchNorm's), and a whitening layer's 'whitening_bias' and 'whitening_kernel'.
    """

    def group(path: Sequence[jax.tree_util.DictKey], parameter: jax.Array) -> str:
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
    """Registers an optimizer under a name for the config field `optimizer`.

    Args:
      name: its name in configs; must be new.
      make: called as `make(schedule, config)`, where `schedule` maps the step to the learning rate; returns an
        `optax.GradientTransformation`.

    Raises:
      ConfigError: the name is taken.
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
    momentum: float = TrainConfig.momentum,
    nesterov: bool = False,
    clip_norm: float = 0.0,
    bias_scale: float = 1.0,
    head_scale: float = 1.0,
    whitening_bias_schedule: optax.Schedule | None = None,
    muon_momentum: float = TrainConfig.muon_momentum,
    muon_steps: int = TrainConfig.muon_steps,
    muon_dtype: DTypeLike = jnp.float32,
) -> optax.GradientTransformation:
    """Returns an optimizer: 'sgd', 'adam' or 'adamw', which equal PyTorch's; 'muon'; or a registered one.

    For 'sgd' and 'adam' the weight decay is coupled: weight_decay * parameter is added to the gradient (after clipping)
    before the momentum. For 'adamw' it is decoupled and scaled by the learning rate (Loshchilov and Hutter 2019).
    'muon' applies Muon to convolution kernels and SGD to the rest. Muon has no weight decay, because it fixes the norm.

    Args:
      schedule: the learning rate; for 'muon', the learning rate of the convolution kernels.
      config: passed with the schedule to a registered optimizer, which gets none of the following arguments.
      bias_scale, head_scale: multiply the learning rate of the groups 'bias' and 'head' of `parameter_groups`. Their weight
        decay is divided by the same factor, so that every parameter decays at the same rate.
      whitening_bias_schedule: learning rate of a whitening layer's bias. Required for a network with such a layer; the layer's
        kernel is then frozen.
      muon_momentum, muon_steps, muon_dtype: see `muon`.

    Raises:
      ConfigError: the name is unknown.
    """
    frozen = optax.set_to_zero()
    if name in _REGISTERED:
        tx = _REGISTERED[name](schedule, config or TrainConfig(optimizer=name))
        if whitening_bias_schedule is None:
            return tx
        # Weight decay would change the whitening kernel even though its gradient is zero.
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
    kernels = [muon(schedule, muon_momentum, nesterov, muon_steps, muon_dtype)] if name == 'muon' else rule()
    groups = {
        'kernel': optax.chain(*kernels),
        'head': optax.chain(*rule(head_scale)),
        'bias': optax.chain(*rule(bias_scale)),
        'whitening_bias': optax.chain(*rule(bias_scale, whitening_bias_schedule)),
        'whitening_kernel': frozen,
    }
    return optax.chain(*clip, optax.partition(groups, parameter_groups))
