"""Learning-rate schedules (functions from the step to the rate) and optimizers, all from optax."""

from collections.abc import Sequence

import jax
import optax

from resnet_jax.errors import ConfigError


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

    'cosine', 'step' and 'constant' start with a linear warm-up from 0 to `peak` (Goyal et al. 2017, section 2.2).
    'cosine' then falls to 0 (Loshchilov and Hutter 2017, without restarts); 'step' is multiplied by `step_factor` at
    each of the `milestones`, fractions of `total_steps`. 'one_cycle' has its own warm-up: up from peak / 25 over the first
    30 % of the steps and down to peak / 250,000, along cosines (Smith and Topin 2018; the defaults of PyTorch's OneCycleLR).

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
        raise ConfigError(f'unknown schedule {name!r}; expected one of cosine, one_cycle, step, constant')
    if not warmup_steps:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), main], [warmup_steps])


def kernels_only(params):
    """Returns True for each kernel and False for each bias and BatchNorm parameter, which are vectors."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def create_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = False,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns 'sgd', 'adam' or 'adamw', each the same as PyTorch's of that name.

    For 'sgd' and 'adam' the weight decay is coupled: weight_decay * parameter is added to the gradient (after clipping)
    before the momentum. For 'adamw' it is decoupled and scaled by the learning rate (Loshchilov and Hutter 2019).

    Raises:
      ConfigError: an unknown name.
    """
    mask = None if decay_norm_and_bias else kernels_only
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    coupled = [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []
    if name == 'sgd':
        return optax.chain(*clip, *coupled, optax.sgd(schedule, momentum or None, nesterov))
    if name == 'adam':
        return optax.chain(*clip, *coupled, optax.adam(schedule))
    if name == 'adamw':
        return optax.chain(*clip, optax.adamw(schedule, weight_decay=weight_decay, mask=mask))
    raise ConfigError(f'unknown optimizer {name!r}; expected one of sgd, adam, adamw')
