"""Parts of a network by name: its head, its blocks from the first to the last, and selections by patterns.

A variable's name is its path without the collection: 'layer1_0/conv1/kernel', or 'layer1_0/bn1/mean' for a statistic.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.weights.match import Shape, model_shapes

BACKBONE, HEAD = 'backbone', 'head'
_LISTED = 30  # number of names in a message
_BLOCK = re.compile(r'layer(\d+)(_\d+)?')


def bare(name: str) -> str:
    """Returns a variable's name without its collection: 'conv1/kernel' for 'params/conv1/kernel'."""
    return name.partition('/')[2]


def head_names(model: nn.Module, image_shape: Shape) -> frozenset[str]:
    """Returns the names, with collection, of the variables whose shape depends on the number of classes.

    For a model without an attribute `num_classes`, returns the names of the part that is called last.
    """
    shapes = model_shapes(model, image_shape)
    if hasattr(model, 'num_classes'):
        others = model_shapes(model.clone(num_classes=model.num_classes + 1), image_shape)
        return frozenset(name for name, shape in shapes.items() if others.get(name) != shape)
    last = _call_order(model, image_shape)[-1:]
    return frozenset(name for name in shapes if bare(name).split('/')[0] in last)


def select(pattern: str, names: Collection[str], head: Collection[str], field: str) -> frozenset[str]:
    """Returns the names, with collection, that a pattern selects.

    Args:
      pattern: shell patterns, separated by commas. Each selects the variables whose name, layer or block matches: 'conv1',
        'layer1_*', '*/bn?', '*/kernel'. 'head' stands for `head`, 'backbone' for all other names.
      names: all names, with collection.
      head: the names of the head.
      field: the config field, for messages.

    Raises:
      ConfigError: one of the patterns selects nothing; lists the names.
    """
    chosen: set[str] = set()
    for part in filter(None, (part.strip() for part in pattern.split(','))):
        if part in (BACKBONE, HEAD):
            selected = {name for name in names if (name in head) == (part == HEAD)}
        else:
            matches = re.compile(fnmatch.translate(part)).match
            selected = {name for name in names if any(map(matches, _prefixes(bare(name))))}
        if not selected:
            in_order = sorted(names, key=lambda name: name.startswith('batch_stats/'))  # every layer has parameters
            blocks = list(dict.fromkeys(bare(name).split('/')[0] for name in in_order))
            more = f', ... ({len(blocks)} in all)' if len(blocks) > _LISTED else ''
            known = [*blocks, *dict.fromkeys(prefix for name in names for prefix in _prefixes(bare(name))), BACKBONE, HEAD]
            raise ConfigError(
                f'{field} has {part!r}, which matches no layer{did_you_mean(part, known)}; expected a pattern such as '
                f'layer1_*, for some of: {", ".join(blocks[:_LISTED])}{more}, {BACKBONE}, {HEAD}'
            )
        chosen |= selected
    return frozenset(chosen)


def _prefixes(name: str) -> list[str]:
    """Returns ['layer1_0', 'layer1_0/conv1', 'layer1_0/conv1/kernel'] for 'layer1_0/conv1/kernel'."""
    parts = name.split('/')
    return ['/'.join(parts[: length + 1]) for length in range(len(parts))]


def blocks(model: nn.Module, image_shape: Shape) -> list[list[str]]:
    """Returns the parts of a network, each a list of names such as ['conv1', 'bn1'], from the first to the last.

    The names are those at the top of `params`. In a network with blocks `layer<stage>_<index>` or `layer<stage>`, the first
    part is the stem, which is everything before the blocks, and each block is a part. In other networks every layer with a
    kernel starts a part. A layer without a kernel, such as a BatchNorm, belongs to the part before it.
    """
    shapes = model_shapes(model, image_shape)
    sizes: dict[str, int] = {}  # the largest number of axes of the layer's parameters
    for name, shape in shapes.items():
        if name.startswith('params/'):
            top = bare(name).split('/')[0]
            sizes[top] = max(sizes.get(top, 0), len(shape))
    called = [name for name in _call_order(model, image_shape) if name in sizes]
    order = [*(name for name in sizes if name not in called), *called]
    has_blocks = any(_BLOCK.fullmatch(name) for name in order)
    result: list[list[str]] = []
    in_stem = has_blocks
    for name in order:
        in_stem = in_stem and not _BLOCK.fullmatch(name)
        starts = sizes[name] > 1 and not in_stem
        if starts or not result:
            result.append([name])
        else:
            result[-1].append(name)
    return result


def stages(parts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the parts, with the blocks of each stage, `layer<stage>_<index>`, joined to one part."""
    result: list[list[str]] = []
    before = None
    for part in parts:
        match = _BLOCK.fullmatch(part[0])
        stage = match[1] if match else None
        if stage is not None and stage == before:
            result[-1] += part
        else:
            result.append([*part])
        before = stage
    return result


def _call_order(model: nn.Module, image_shape: Shape) -> list[str]:
    """Returns the names of a model's submodules in the order in which they are first called."""
    order: dict[str, None] = {}

    def record(
        call: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: nn.module.InterceptorContext
    ) -> object:
        if context.method_name == '__call__' and context.module.path:
            order.setdefault(context.module.path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    return list(order)


def first_kernel(model: nn.Module, image_shape: Shape) -> str | None:
    """Returns the name, with collection, of the first convolution's kernel; None if the first layer is not a convolution."""
    shapes: Mapping[str, Shape] = model_shapes(model, image_shape)
    order = _call_order(model, image_shape)
    kernels = [name for name in shapes if order and bare(name).startswith(f'{order[0]}/') and len(shapes[name]) == 4]
    return kernels[0] if len(kernels) == 1 else None
