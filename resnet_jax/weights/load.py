"""Loads weights: turns a PyTorch or .safetensors file into a model and its variables."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.models import create_model
from resnet_jax.typing import JsonDict
from resnet_jax.weights.files import read_tensors
from resnet_jax.weights.match import Match, Shape, match, nearest_model
from resnet_jax.weights.names import FLAX, from_torch, unflatten

logger = logging.getLogger(__name__)

# Prefixes that data parallelism, torch.compile and training frameworks add to every name.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
_LISTED = 1000  # most differences logged of each kind: a hostile file may have any number of names


def load_variables(
    path: str | Path,
    model_name: str | None = None,
    /,
    *,
    num_classes: int | None = None,
    image_shape: Shape | None = None,
    **model_kwargs: Any,
) -> tuple[nn.Module, JsonDict, JsonDict]:
    """Loads weights without torch; recognises the names of torchvision, timm, kuangliu, akamaster, D2L and our own.

    Args:
      path: .pth, .pt, .th or .safetensors; may be untrusted.
      model_name: as for `create_model`; may be None for a file written by `save_safetensors`.
      num_classes: if None, the file's.
      image_shape: (height, width, channels) of the network's input; the shapes of the first layer, and for AlexNet of
        other layers, depend on it. If None, the file's or (32, 32, 3).
      **model_kwargs: as for `create_model`, e.g. stem='imagenet'. Files written by `save_safetensors` contain their own.

    Returns:
      The network; its {'params', 'batch_stats'}, nested dicts of float32 NumPy arrays; and a dict with 'model',
      'model_kwargs', 'num_classes', 'image_shape' and the other metadata of a file written by `save_safetensors`.

    Raises:
      InputFileError: the file is missing, damaged or hostile; it holds another model (all missing, unmatched and misshapen
        arrays are logged, and the message names the nearest model); or a number is not finite in float32.
      ConfigError: the model or an argument is unknown.
    """
    tensors, metadata = read_tensors(path)
    if model_name not in (None, metadata.get('model')):
        metadata = {}  # the caller's model overrides the file's
    if metadata:
        model_name, model_kwargs = metadata['model'], {**metadata['model_kwargs'], **model_kwargs}
        image_shape = image_shape or tuple(metadata['image_shape'])
    if model_name is None:
        raise ConfigError(f'{path} does not say which model it is of; expected model=NAME, as resnet20')
    image_shape = image_shape or (32, 32, 3)
    tensors = _plain_names(tensors)
    shapes = {name: array.shape for name, array in tensors.items()}
    try:
        # A file must not make us build a network with more blocks than the file has tensors.
        if metadata and sum(getattr(create_model(model_name, **model_kwargs), 'stage_sizes', ())) > len(shapes):
            raise ConfigError(f'{model_name} with {model_kwargs} needs more than its {len(shapes)} tensors')
        matching = match(shapes, model_name, model_kwargs, image_shape, num_classes)
    except ConfigError as error:
        if metadata:
            raise InputFileError(f'{path} says what it is of, and no such model can be made: {error}') from None
        raise
    if not matching.fits:
        raise _mismatch(path, model_name, matching, shapes, image_shape)
    model = create_model(model_name, matching.num_classes, **model_kwargs)
    arrays = {}
    for ours, theirs in matching.matched.items():
        array = _float32(path, theirs, tensors[theirs])
        array = array if matching.naming == FLAX else from_torch(array, model, ours, matching.shapes)
        arrays[ours] = np.ascontiguousarray(array)
    described = {
        'model': model_name,
        'model_kwargs': model_kwargs,
        'num_classes': matching.num_classes,
        'image_shape': list(image_shape),
    }
    return model, unflatten(arrays), {**metadata, **described}


def _plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops BatchNorm's counters, which are not needed, and prefixes that all names share."""
    tensors = {name: array for name, array in tensors.items() if not name.endswith('num_batches_tracked')}
    while prefix := next((p for p in _PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _float32(path: str | Path, name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputFileError(f'{path}: {_shown(name)} is {array.dtype}; expected floating-point numbers')
    with np.errstate(over='ignore'):
        result = np.asarray(array).astype(np.float32)
    if not np.isfinite(result).all():
        raise InputFileError(f'{path}: {_shown(name)} has numbers that are not finite in float32; fetch other weights')
    return result


def _shown(name: str) -> str:
    """Returns a name from the file, which may contain anything, in a form that is safe to print."""
    return name[:80] if name.isprintable() else ascii(name[:80])


def _mismatch(path: str | Path, name: str, matching: Match, shapes: Mapping[str, Shape], image_shape: Shape) -> InputFileError:
    """Logs the differences, and returns an error that names the first of each kind."""
    kinds = {
        'missing': [f'{_shown(key)} {list(shape)}' for key, shape in matching.missing.items()],
        'unmatched': [f'{_shown(key)} {list(shape)}' for key, shape in matching.unmatched.items()],
        'of another shape': [
            f'{_shown(key)} {list(shape)}, expected {list(expected)}' for key, (shape, expected) in matching.misshapen.items()
        ],
    }
    parts = []
    for kind, lines in kinds.items():
        for line in lines[:_LISTED]:
            logger.warning('%s: %s', kind, line)
        if len(lines) > _LISTED:
            logger.warning('%s: %d more', kind, len(lines) - _LISTED)
        if lines:
            parts.append(f'{len(lines)} {kind} ({lines[0]}{", ..." if len(lines) > 1 else ""})')
    nearest = nearest_model(shapes, image_shape)
    advice = 'it resembles no model here'
    if nearest and nearest[2].score > matching.score:
        kwargs = ''.join(f' with {key}={value}' for key, value in nearest[1].items())
        advice = f'the nearest is {nearest[0]}{kwargs} ({len(nearest[2].matched)} of {nearest[2].total} tensors fit)'
    elif matching.matched:
        advice = 'no model here is nearer: check its arguments and the file'
    return InputFileError(f'{path} does not fit {name}: {"; ".join(parts)}; {advice}')
