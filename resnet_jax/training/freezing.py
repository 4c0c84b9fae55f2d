"""Freezes variables. Frozen variables have no gradient and no optimizer state; they may start to train at a later epoch."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.typing import PyTree
from resnet_jax.weights.match import Shape, model_shapes
from resnet_jax.weights.parts import BACKBONE, bare, blocks, head_names, select, stages


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The variables that do not train, by name with collection: 'params/conv1/kernel', 'batch_stats/bn1/mean'."""

    names: frozenset[str] = frozenset()

    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """Returns the parameters that train, and the frozen ones."""
        if not self.names:
            return params, {}
        flat = flatten_dict(params, sep='/')
        moving = {name: leaf for name, leaf in flat.items() if f'params/{name}' not in self.names}
        still = {name: leaf for name, leaf in flat.items() if name not in moving}
        return unflatten_dict(moving, sep='/'), unflatten_dict(still, sep='/')

    def merge(self, moving: PyTree, still: PyTree) -> PyTree:
        """Returns all parameters, the inverse of `split`."""
        if not self.names:
            return moving
        return unflatten_dict({**flatten_dict(moving, sep='/'), **flatten_dict(still, sep='/')}, sep='/')

    def keep(self, new: PyTree, old: PyTree) -> PyTree:
        """Returns `new` with the frozen variables of `old`, unchanged to the bit; both have 'params', 'batch_stats' or both."""
        if not self.names:
            return new
        before = flatten_dict(old, sep='/')
        return {  # the collections stay even if they are empty
            **new,
            **unflatten_dict(
                {name: before[name] if name in self.names else leaf for name, leaf in flatten_dict(new, sep='/').items()},
                sep='/',
            ),
        }

    def statistics(self) -> contextlib.AbstractContextManager[object]:
        """Returns a context in which a Flax BatchNorm with frozen statistics normalises by these, as in evaluation.

        The context intercepts calls of `nn.BatchNorm`, so it works in any model.
        """
        layers = {bare(name).rpartition('/')[0] for name in self.names if name.startswith('batch_stats/')}
        if not layers:
            return contextlib.nullcontext()

        def call(
            method: Callable[..., object],
            args: tuple[object, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> object:
            layer = context.module
            if context.method_name != '__call__' or not isinstance(layer, nn.BatchNorm) or '/'.join(layer.path) not in layers:
                return method(*args, **kwargs)
            # Flax rejects an argument that both the layer and the call set, so the copied layer does not set it.
            copy = layer.clone(parent=None, name=None, use_running_average=None)
            return copy.apply(layer.variables, args[0], **{**kwargs, 'use_running_average': True})

        return nn.intercept_methods(call)


NOTHING = Frozen()


@dataclasses.dataclass(frozen=True)
class Freezing:
    """The frozen variables of each phase of a run.

    Attributes:
      starts: the epochs at which the phases start; the first is 0.
      phase_of: the first phase in which a variable trains, by name with collection; len(starts) if it never trains. Other
        variables train from the start.
    """

    starts: tuple[int, ...]
    phase_of: Mapping[str, int]

    def frozen(self, phase: int) -> Frozen:
        """Returns the variables that are frozen in a phase."""
        return Frozen(frozenset(name for name, first in self.phase_of.items() if first > phase))

    def phase(self, epoch: int) -> int:
        """Returns the phase of an epoch; epochs are counted from 0."""
        return max(phase for phase, start in enumerate(self.starts) if start <= epoch)

    def groups(self, params: PyTree) -> PyTree:
        """Returns the first phase in which each parameter trains, as a string."""

        def group(path: Sequence[jax.tree_util.DictKey], leaf: jax.Array) -> str:
            return str(self.phase_of.get('/'.join(['params', *(key.key for key in path)]), 0))

        return jax.tree_util.tree_map_with_path(group, params)


def plan(config: TrainConfig, model: nn.Module, image_shape: Shape) -> Freezing | None:
    """Returns the phases given by `freeze` and `unfreeze_epochs` of a config; None if nothing is frozen.

    Raises:
      ConfigError: the pattern selects nothing or every parameter, or there are more epochs than frozen stages.
    """
    pattern, unfreeze_epochs = config.freeze, config.unfreeze_epochs
    if not pattern:
        return None
    shapes = model_shapes(model, image_shape)
    names = select(pattern, shapes, head_names(model, image_shape), 'freeze')
    if all(name in names for name in shapes if name.startswith('params/')):
        raise ConfigError(f'freeze={pattern} freezes every parameter; expected some to be left to train, as freeze={BACKBONE}')
    # Freeze either both statistics of a BatchNorm or neither.
    statistics = {name for name in names if name.startswith('batch_stats/')}
    split = {name for name in statistics if not _same_layer(name, shapes) <= statistics}
    names = names - split
    frozen = [stage for stage in stages(blocks(model, image_shape)) if _of(stage, names)]
    if len(unfreeze_epochs) > len(frozen):
        raise ConfigError(
            f'unfreeze_epochs has {len(unfreeze_epochs)} epochs, and freeze={pattern} freezes {len(frozen)} stages '
            f'({", ".join(stage[0] for stage in frozen)}); expected at most as many epochs'
        )
    phase_of = dict.fromkeys(names, len(unfreeze_epochs) + 1)
    for phase in range(1, len(unfreeze_epochs) + 1):
        # Each epoch unfreezes one stage, the nearest to the head first; the last epoch unfreezes all that are left.
        moving = [frozen.pop()] if phase < len(unfreeze_epochs) else frozen
        for stage in moving:
            phase_of |= dict.fromkeys(_of(stage, names), phase)
    return Freezing((0, *unfreeze_epochs), phase_of)


def _same_layer(name: str, names: Collection[str]) -> set[str]:
    layer = name.rpartition('/')[0]
    return {other for other in names if other.rpartition('/')[0] == layer}


def _of(stage: Sequence[str], names: Collection[str]) -> list[str]:
    return [name for name in names if bare(name).split('/')[0] in stage]


def scale_by_depth(model: nn.Module, image_shape: Shape, decay: float) -> optax.GradientTransformation:
    """Returns a transformation that multiplies the updates of a part by decay**(its distance from the last part).

    The parts are listed by `weights.parts.blocks`: the head, each block, the stem. After an optimizer, the transformation
    scales the learning rate, like the parameter groups of timm's layer decay. It has no state.
    """
    parts = blocks(model, image_shape)
    scales = {name: decay ** (len(parts) - 1 - place) for place, part in enumerate(parts) for name in part}

    def scaled(updates: PyTree, params: PyTree) -> PyTree:
        return {name: jax.tree.map(lambda u, s=scales[name]: s * u, part) for name, part in updates.items()}

    return optax.stateless(scaled)


def continue_optimizer(tx: optax.GradientTransformation, moving: PyTree, before: optax.OptState) -> optax.OptState:
    """Extends an optimizer state to newly trainable parameters.

    Args:
      moving: the parameters that train now.
      before: the state of the previous phase, on the host.
    """
    old = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(before)}
    started = tx.init(moving)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: old.get(jax.tree_util.keystr(path), leaf), started)
