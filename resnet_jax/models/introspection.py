"""Inspects a network: the `features` of its stages, and `layers`, a table of shapes, parameters and multiply-adds."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import VariableDict

from resnet_jax.errors import ConfigError
from resnet_jax.models.checks import check_positive_int


class Layer(NamedTuple):
    """One layer: its path in `params`, its output shape without the batch axis, its parameters and multiply-adds."""

    path: str
    kind: str
    shape: tuple[int, ...]
    params: int
    multiply_adds: int


def layers(model: nn.Module, image_size: int = 32, channels: int = 3) -> list[Layer]:
    """Returns the layers with parameters in execution order; computes only shapes.

    Multiply-adds count convolutions and linear layers for one image; a multiplication and its addition count as one, as in the
    FLOPs of papers. Biases, BatchNorm, activations and pools are not counted.

    Args:
      model: a module of this package.
      image_size: height and width of the images.
      channels: channels of the images.

    Raises:
      ConfigError: image_size or channels is out of range, or too small for the model.
    """
    check_positive_int('image', image_size)
    check_positive_int('channels', channels)
    rows: list[Layer] = []

    def record(
        call: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: nn.module.InterceptorContext
    ) -> object:
        out = call(*args, **kwargs)
        module = context.module
        layer = context.method_name == '__call__' and isinstance(module, nn.Conv | nn.Dense | nn.BatchNorm)
        if layer and isinstance(out, jax.Array):
            shapes = {name: leaf.shape for name, leaf in module.variables['params'].items()}
            # Every output pixel uses the whole kernel once, also with groups.
            pixels = math.prod(out.shape[1:-1])
            multiply_adds = pixels * math.prod(shapes['kernel']) if 'kernel' in shapes else 0
            params = sum(math.prod(shape) for shape in shapes.values())
            rows.append(Layer('/'.join(module.path), type(module).__name__, out.shape[1:], params, multiply_adds))
        return out

    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return rows


def table(rows: list[Layer]) -> str:
    """Returns the layers as lines of text, with a header and totals."""
    texts = [('layer', 'kind', 'output', 'params', 'multiply-adds')]
    for layer in rows:
        shape = 'x'.join(map(str, layer.shape))
        texts.append((layer.path, layer.kind, shape, f'{layer.params:,}', f'{layer.multiply_adds:,}'))
    params, multiply_adds = sum(layer.params for layer in rows), sum(layer.multiply_adds for layer in rows)
    texts.append(('total', '', '', f'{params:,}', f'{multiply_adds:,}'))
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    left = (True, True, True, False, False)
    lines = []
    for row in texts:
        cells = (cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True))
        lines.append('  '.join(cells).rstrip())
    rule = '-' * max(map(len, lines))
    return '\n'.join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def features(model: nn.Module, variables: VariableDict, images: jax.Array) -> dict[str, jax.Array]:
    """Returns a network's intermediate outputs and logits in evaluation mode. To jit it, bind the model.

    Args:
      model: a module of this package.
      variables: {'params', 'batch_stats'}, or {'params'} without BatchNorm.
      images: `[batch, height, width, channels]`, as the model takes them.

    Returns:
      'stage1', 'stage2', ...: the output of each stage, `[batch, height, width, channels]` in the model's dtype; 'stem' (only
      for ResNet and SpeedrunNet): the input of stage 1; 'pooled': the input of the last linear layer, `[batch, channels]`,
      float32; 'logits': `[batch, num_classes]`, float32.

    Raises:
      ConfigError: the model sows no features.
    """
    logits, state = model.apply(variables, images, train=False, mutable=['intermediates'])
    if 'intermediates' not in state:
        raise ConfigError(f'{type(model).__name__} keeps no features; expected a model of resnet_jax.models')
    return {**state['intermediates'], 'logits': logits}
