"""Loads weights: turns a PyTorch or .safetensors file into a model and its variables."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.models import create_model
from resnet_jax.typing import Json, JsonDict
from resnet_jax.weights.files import read_state_dicts
from resnet_jax.weights.match import LONGEST_NAME, Match, Shape, match, nearest_model
from resnet_jax.weights.names import FLAX, TORCHVISION, from_torch, unflatten
from resnet_jax.weights.torch_file import StateDict

logger = logging.getLogger(__name__)

# Names of averaged weights in training scripts: state_dict_ema, ema_model, modelEMA, swa_state_dict, averaged_model, shadow.
_AVERAGED = re.compile(r'(^|[^a-zA-Z]|(?<=[a-z])(?=[A-Z]))(?i:ema|swa|averaged|shadow)([^a-zA-Z]|(?<=[a-z])(?=[A-Z])|$)')
_LISTED = 1000  # differences of each kind that are logged: a hostile file may have any number of names


def load_variables(
    path: str | Path,
    model_name: str | None = None,
    /,
    *,
    num_classes: int | None = None,
    image_shape: Shape | None = None,
    ema: bool = False,
    only: Collection[str] | None = None,
    any_channels: bool = False,
    **model_kwargs: Any,
) -> tuple[nn.Module, JsonDict, JsonDict]:
    """Loads weights without torch; recognises the parameter names of other libraries (`names.NAMINGS`) and of this package.

    From a training checkpoint, loads the state dict that fits the model best, under any key and with any prefix to its names.

    Args:
      path: .pth, .pt, .th or .safetensors; may be untrusted.
      model_name: as for `create_model`; may be None for a file written by `save_safetensors`.
      num_classes: number of classes; if None, the file's.
      image_shape: (height, width, channels) of the network's input; the shapes of the first layer, and for AlexNet of
        other layers, depend on it. If None, the file's or (32, 32, 3).
      ema: load averaged weights, such as those under 'state_dict_ema'. If False, averaged weights are loaded only if there are
        no others.
      only: names of the model's arrays, such as 'params/conv1/kernel'; only these are loaded, and the others may be missing or
        not fit.
      any_channels: also accept a file for images with another number of channels, which `image_shape` in the result then has.
      **model_kwargs: as for `create_model`, e.g. stem='imagenet'. Files written by `save_safetensors` contain them.

    Returns:
      The network; its {'params', 'batch_stats'}, nested dicts of float32 NumPy arrays; and a dict with 'model',
      'model_kwargs', 'num_classes', 'image_shape' and the other metadata of a file written by `save_safetensors`.

    Raises:
      InputFileError: the file is missing, damaged or hostile; it holds another model (all missing, unmatched and misshapen
        arrays are logged, and the message names the nearest model); or a number is not finite in float32.
      ConfigError: the model or an argument is unknown, or the file has no averaged weights.
    """
    state_dicts, metadata = read_state_dicts(path)
    if model_name not in (None, metadata.get('model')):
        metadata = {}  # the caller's model overrides the file's
    if metadata:
        model_name, model_kwargs = metadata['model'], {**metadata['model_kwargs'], **model_kwargs}
        image_shape = image_shape or tuple(metadata['image_shape'])
    if model_name is None:
        raise ConfigError(f'{path} does not say which model it is of; expected model=NAME, as resnet20')
    image_shape = image_shape or (32, 32, 3)
    state_dicts = _apart(state_dicts)
    averaged = {
        key: state_dict
        for key, state_dict in state_dicts.items()
        if _AVERAGED.search(key) or 'n_averaged' in state_dict.shapes  # torch.optim.swa_utils.AveragedModel
    }
    if ema and not averaged:
        raise ConfigError(f'{path} has no averaged weights; expected a file with an entry such as state_dict_ema, or ema=False')
    chosen = averaged if ema else {key: state_dicts[key] for key in state_dicts if key not in averaged} or averaged
    try:
        # A file must not make us build a network with more blocks than the file has tensors.
        longest = max(len(state_dict.shapes) for state_dict in chosen.values())
        if metadata and sum(getattr(create_model(model_name, **model_kwargs), 'stage_sizes', ())) > longest:
            raise ConfigError(f'{model_name} with {model_kwargs} needs more than its {longest} tensors')
        matches = _match_all(chosen, model_name, model_kwargs, image_shape, num_classes)
        if any_channels and (channels := max(matches.values(), key=lambda each: each.score).channels(image_shape[2])):
            image_shape = (*image_shape[:2], channels)
            matches = _match_all(chosen, model_name, model_kwargs, image_shape, num_classes)
    except ConfigError as error:
        if metadata:
            raise InputFileError(f'{path} says what it is of, and no such model can be made: {error}') from None
        raise
    key = max(matches, key=lambda key: matches[key].score)
    matching, state_dict = matches[key], chosen[key]
    if not (matching.fits if only is None else matching.matched.keys() >= {*only}):
        raise _mismatch(path, model_name, matching, state_dict.shapes, image_shape, num_classes)
    if len(state_dicts) > 1:
        logger.info('%s: took the weights under %s', path, _shown(key) if key else 'its top')
    if ignored := [name for name in matching.ignored if state_dict.shapes[name]]:
        logger.info('%s: ignored %d tensors beside the network, such as %s', path, len(ignored), _shown(ignored[0]))
    model = create_model(model_name, matching.num_classes, **model_kwargs)
    if matching.naming == TORCHVISION and getattr(model, 'stem', '') == 'cifar' and len(model.stage_sizes) == 4:
        logger.warning(
            '%s: names and shapes do not tell whether a max pool follows the stem, as in huyvnphan/PyTorch_CIFAR10; '
            'loaded without one: check the accuracy',
            path,
        )
    arrays = {}
    for ours, theirs in matching.matched.items():
        if only is not None and ours not in only:
            continue
        array = _float32(path, theirs, state_dict.read(theirs))
        array = array if matching.naming == FLAX else from_torch(array, model, ours, matching.shapes)
        arrays[ours] = np.ascontiguousarray(array)
    described = {
        'model': model_name,
        'model_kwargs': model_kwargs,
        'num_classes': matching.num_classes,
        'image_shape': list(image_shape),
    }
    return model, unflatten(arrays), {**metadata, **described}


def _apart(state_dicts: Mapping[str, StateDict]) -> dict[str, StateDict]:
    """Separates averaged weights, such as 'ema_model.conv1.weight', from the others in the same dict (ema_pytorch)."""
    result = {}
    for key, state_dict in state_dicts.items():
        by_place: dict[str, dict[str, Shape]] = {}
        for name, shape in state_dict.shapes.items():
            parts = name[:LONGEST_NAME].split('.')[:-1]
            end = next((i + 1 for i, part in enumerate(parts) if _AVERAGED.search(part)), 0)
            by_place.setdefault('.'.join(parts[:end]), {})[name] = shape
        largest = max(map(len, by_place.values()))
        for place, shapes in by_place.items():
            if 2 * len(shapes) > largest or len(by_place) == 1:
                result['/'.join(filter(None, (key, place)))] = state_dict._replace(shapes=shapes)
    return result


def _match_all(
    state_dicts: Mapping[str, StateDict], name: str, kwargs: Json, image_shape: Shape, num_classes: int | None
) -> dict[str, Match]:
    return {key: match(each.shapes, name, kwargs, image_shape, num_classes) for key, each in state_dicts.items()}


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


def _mismatch(
    path: str | Path,
    name: str,
    matching: Match,
    shapes: Mapping[str, Shape],
    image_shape: Shape,
    num_classes: int | None,
) -> InputFileError:
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
    nearest = nearest_model(shapes, image_shape, name)
    advice = 'it resembles no model here'
    if nearest and nearest[2].score > matching.score:
        model, kwargs, candidate = nearest
        if num_classes not in (None, candidate.num_classes):
            kwargs = {**kwargs, 'num_classes': str(candidate.num_classes)}
        arguments = ' and '.join(f'{key}={value}' for key, value in kwargs.items())
        advice = (
            f'the nearest is {model}{" with " * bool(kwargs)}{arguments} '
            f'({len(candidate.matched)} of {candidate.total} tensors fit)'
        )
    elif matching.matched:
        advice = 'no model here is nearer: check its arguments and the file'
    return InputFileError(f'{path} does not fit {name}: {"; ".join(parts)}; {advice}')
