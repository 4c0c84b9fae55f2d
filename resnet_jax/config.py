"""The fields of a config: what each may be, which of them define a run, and how a wrong one is reported."""

import difflib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError

Check = Callable[[Any], str | None]  # None if the value will do, otherwise what was expected


def _integer(low: int, high: int = 2**31 - 1) -> Check:
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return f'an integer of at least {low}' if high == 2**31 - 1 else f'an integer from {low} to {high}'
        return None

    return check


def _number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Check:
    """A finite number in [low, high]; `above` and `below` exclude the ends."""

    def check(value):
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if not number or value < low or value > high or (above and value == low) or (below and value == high):
            lower = f'{"above" if above else "of at least"} {low:g}'
            upper = '' if math.isinf(high) else f' and {"below" if below else "at most"} {high:g}'
            return f'a number {lower}{upper}'
        return None

    return check


def _one_of(*choices: str) -> Check:
    def check(value):
        if value in choices:
            return None
        near = difflib.get_close_matches(str(value).lower(), choices, n=1)
        return 'one of ' + ', '.join(choices) + (f' (did you mean {near[0]!r}?)' if near else '')

    return check


def _text(value):
    return None if isinstance(value, str) and value else 'a name'


def _optional_name(value):
    return None if isinstance(value, str) else "a name, or '' for none"


def _path(value):
    return None if isinstance(value, str) else "a path, or '' for none"


def _flag(value):
    return None if isinstance(value, bool) else 'True or False'


def _mapping(value):
    if not isinstance(value, Mapping | ConfigDict):
        return 'a dict of keyword arguments'
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return 'numbers, strings, lists, True or False as keyword arguments, which config.json can hold'
    return None


def _fractions(value):
    numbers = isinstance(value, tuple | list) and all(isinstance(v, int | float) and 0 < v < 1 for v in value)
    return None if numbers and list(value) == sorted(value) else 'increasing fractions of the run, such as (0.5, 0.75)'


# configs/default.py says what each field means. Model and data set names are checked by create_model and load_dataset.
FIELDS: dict[str, Check] = {
    'seed': _integer(0),
    'dataset': _text,
    'data_dir': _path,
    'data_archive': _path,
    'validation_size': _integer(0),
    'train_size': _integer(0),
    'model': _text,
    'model_kwargs': _mapping,
    'dtype': _one_of('float32', 'bfloat16'),
    'cross_device_batch_norm': _flag,
    'deterministic': _flag,
    'num_epochs': _integer(1),
    'batch_size': _integer(1),
    'gradient_accumulation_steps': _integer(1),
    'crop_padding': _integer(0),
    'crop_mode': _one_of('constant', 'reflect'),
    'flip': _flag,
    'alternating_flip': _flag,
    'brightness': _number(0),
    'contrast': _number(0, 1),
    'cutout_size': _integer(0),
    'mixup_alpha': _number(0),
    'label_smoothing': _number(0, 1, below=True),
    'proxy_model': _optional_name,
    'proxy_model_kwargs': _mapping,
    'selected_fraction': _number(0, 1, above=True),
    'proxy_update_every': _integer(1),
    'optimizer': _one_of('sgd', 'adam', 'adamw', 'muon'),
    'learning_rate': _number(0, above=True),
    'base_batch_size': _integer(0),
    'momentum': _number(0, 1, below=True),
    'nesterov': _flag,
    'weight_decay': _number(0),
    'decay_norm_and_bias': _flag,
    'clip_norm': _number(0),
    'bias_learning_rate': _number(0),
    'head_learning_rate': _number(0),
    'whitening_bias_epochs': _number(0),
    'muon_momentum': _number(0, 1, below=True),
    'muon_steps': _integer(1),
    'lookahead_sync_period': _integer(0),
    'lookahead_decay': _number(0, 1),
    'ema_decay': _number(0, 1, below=True),
    'schedule': _one_of('cosine', 'linear', 'one_cycle', 'step', 'constant'),
    'warmup_epochs': _number(0),
    'milestones': _fractions,
    'step_factor': _number(0, 1, above=True),
    'eval_batch_size': _integer(1),
    'tta': _one_of('none', 'mirror', 'mirror_translate'),
    'eval_every_epochs': _integer(1),
    'eval_every_steps': _integer(0),
    'checkpoint_every_epochs': _integer(1),
    'log_gradient_norms': _flag,
    'log_every': _integer(1),
    'divergence_retries': _integer(0, 100),
    'watchdog_seconds': _number(1),
}

# These may change between two starts of one run: none of them alters a parameter or which epoch is the result, except that
# divergence_retries lets a run go on that would have ended.
FREE_FIELDS = (
    'deterministic',
    'data_dir',
    'data_archive',
    'eval_batch_size',
    'checkpoint_every_epochs',
    'log_every',
    'divergence_retries',
    'watchdog_seconds',
)

# Fields that came after the first runs were made, with what those runs did: the values of configs/default.py.
ADDED_FIELDS: dict[str, Any] = {
    'train_size': 0,
    'deterministic': False,
    'crop_mode': 'constant',
    'alternating_flip': False,
    'brightness': 0.0,
    'contrast': 0.0,
    'proxy_model': '',
    'proxy_model_kwargs': {},
    'selected_fraction': 0.5,
    'proxy_update_every': 1,
    'bias_learning_rate': 0.0,
    'head_learning_rate': 0.0,
    'whitening_bias_epochs': 0.0,
    'muon_momentum': 0.6,
    'muon_steps': 3,
    'lookahead_sync_period': 0,
    'lookahead_decay': 0.774,
    'tta': 'none',
    'eval_every_steps': 0,
    'log_gradient_norms': False,
    'divergence_retries': 0,
    'watchdog_seconds': 1800.0,
}


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config that a run folder or a checkpoint holds with all fields, also if it was made before one existed."""
    return {**ADDED_FIELDS, **values}


def validate(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as a plain dict after checking every field.

    Raises:
      ConfigError: a field is unknown (names the nearest), missing, of the wrong type or out of range.
    """
    values = config.to_dict()
    for name in values:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
            hint = f'did you mean {near[0]!r}?' if near else 'expected one of ' + ', '.join(FIELDS)
            raise ConfigError(f'unknown config field {name!r}; {hint}')
    for name, check in FIELDS.items():
        if name not in values:
            raise ConfigError(f'config field {name!r} is missing; start from configs/default.py')
        if expected := check(values[name]):
            raise ConfigError(f'config field {name!r} is {values[name]!r}; expected {expected}')
    if values['schedule'] != 'one_cycle' and values['warmup_epochs'] >= values['num_epochs']:
        raise ConfigError(
            f'the warm-up takes {values["warmup_epochs"]:g} epochs and the whole run {values["num_epochs"]}; '
            'lower warmup_epochs or raise num_epochs'
        )
    if values['alternating_flip'] and not values['flip']:
        raise ConfigError('alternating_flip is a way to flip, and flip is False; expected --config.flip=True with it')
    return json.loads(json.dumps(values))  # tuples become lists, as they are when config.json is read back


def difference(old: Mapping[str, Any], new: Mapping[str, Any], *, free: bool = False) -> list[str]:
    """Returns one 'field: old -> new' for each field that defines a run and differs; `old` may be of an older version.

    Args:
      free: of the fields that do not define a run instead.
    """
    old = {**{name: value for name, value in ADDED_FIELDS.items() if name in new}, **old}
    names = [name for name in {**old, **new} if (name in FREE_FIELDS) == free]
    absent = object()
    return [
        f'{name}: {old.get(name)!r} -> {new.get(name)!r}' for name in names if old.get(name, absent) != new.get(name, absent)
    ]


def check_continues(old: Mapping[str, Any], new: Mapping[str, Any], extend: bool, where: str) -> None:
    """Checks that a run of the config `old` may go on with `new`.

    Args:
      extend: more epochs may be asked for.
      where: the run folder or checkpoint, for the message.

    Raises:
      ConfigError: it may not; names what differs.
    """
    longer = type(old.get('num_epochs')) is int and old['num_epochs'] < new['num_epochs']
    changes = difference({**old, 'num_epochs': new['num_epochs']} if longer and extend else old, new)
    if changes:
        only = longer and len(changes) == 1
        remedy = 'give --extend to train it longer, or another --workdir' if only else 'choose another --workdir'
        raise ConfigError(f'{where} holds a run of another config ({"; ".join(changes)}); {remedy}, or delete it')
