"""Checks the contents of a run's JSON documents when they are read, because a file may be damaged or edited."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from resnet_jax.config import TrainConfig, fields
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.typing import Json, JsonDict

LARGEST_STEP = 2**31 - 1
Checks = Mapping[str, Callable[[object], bool]]  # checks of values, by field


def is_integer(value: object, high: int = LARGEST_STEP, low: int = 0) -> bool:
    """Returns whether a value is an integer in [low, high]."""
    return type(value) is int and low <= value <= high


def is_number(value: object) -> bool:
    """Returns whether a value is a number that fits a double: neither infinite nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_share(value: object) -> bool:
    """Returns whether a value is a number in [0, 1]."""
    return isinstance(value, int | float) and is_number(value) and 0 <= value <= 1


def are_numbers(value: object, *, above: float = -sys.float_info.max) -> bool:
    """Returns whether a value is a list of one or more numbers, all larger than `above`."""
    return isinstance(value, list) and len(value) > 0 and all(is_number(number) and number > above for number in value)


def is_text(value: object) -> bool:
    """Returns whether a value is a string."""
    return isinstance(value, str)


def are_texts(value: object) -> bool:
    """Returns whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and is_number(value) and value >= 0


_RESULT: Checks = {
    'split': is_text,
    'selected': lambda value: value in ('last', 'validation'),
    'accuracy': is_share,
    'loss': is_number,
    'count': lambda value: is_integer(value, low=1),
    'step': is_integer,
    'epoch': is_integer,
}
_BESIDES: Checks = {'tta': is_text, 'seconds': _is_duration}
_AVERAGED: Checks = {'ema_accuracy': is_share, 'ema_loss': is_number}
# Does not check choices: another version may have others.
_CONFIG: Checks = {
    field.name: is_text if field.metadata['check'].choices else field.metadata['check'].accepts for field in fields()
}


def check_document(value: object, required: Checks, optional: Checks) -> JsonDict:
    """Returns a JSON object whose fields pass their checks; others may have any value.

    Raises:
      ValueError: the value is not an object, a field is missing, or a field fails its check; names the first such field.
    """
    if not isinstance(value, dict):
        raise ValueError(f'it holds {type(value).__name__}, expected an object')
    for name, accepts in {**required, **optional}.items():
        if name not in value:
            if name in required:
                raise ValueError(f'it has no {name}')
        elif not accepts(value[name]):
            raise ValueError(f'it has {str(value[name])[:80]!r} as {name}')
    return value


def check_result(value: object, path: Path) -> JsonDict:
    """Returns the contents of result.json.

    Raises:
      InputFileError: the contents are not those of a run.
    """
    averaged = isinstance(value, dict) and bool(value.keys() & _AVERAGED.keys())
    try:
        return check_document(value, {**_RESULT, **_AVERAGED} if averaged else _RESULT, _BESIDES)
    except ValueError as error:
        raise _no_result(path, error) from None


def check_environment(value: object, path: Path) -> JsonDict:
    """Returns the contents of environment.json; fields may be missing.

    Raises:
      InputFileError: the contents are not those of a run.
    """
    try:
        return check_document(value, {}, {'packages': _are_versions})
    except ValueError as error:
        raise InputFileError(f'{path} is not what a run writes ({error}); restore or delete it') from None


def _are_versions(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(version, str) for version in value.values())


def read_result(folder: Path) -> JsonDict | None:
    """Returns the result of a run; None if there is none.

    Raises:
      InputFileError: result.json cannot be read, or its contents are not those of a run.
    """
    path = folder / 'result.json'
    if not path.exists():
        return None
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise _no_result(path, getattr(error, 'strerror', None) or error) from None
    return check_result(value, path)


def _no_result(path: Path, reason: object) -> InputFileError:
    return InputFileError(f'{path} is not what a run ends with ({reason}); delete it to evaluate the run again')


def check_config(value: object, path: Path) -> JsonDict:
    """Returns the contents of config.json; fields may be missing or of another version.

    Raises:
      InputFileError: a value is not allowed for its field.
    """
    try:
        return check_document(value, {}, _CONFIG)
    except ValueError as error:
        raise InputFileError(f'{path} is not what a run writes ({error}); restore it or choose another run folder') from None


def config_of(values: Json, path: Path) -> TrainConfig:
    """Returns the config of a run from the contents of config.json.

    Raises:
      InputFileError: this version does not accept the config.
    """
    try:
        return TrainConfig.from_mapping(values)
    except ConfigError as error:
        raise InputFileError(f'{path} cannot be used by this version: {error}') from None
