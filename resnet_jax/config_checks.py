"""Checks of the values of config fields."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence

from resnet_jax.errors import ConfigError, did_you_mean, shortened

LARGEST_INTEGER = 2**31 - 1
_MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Check:
    """The check of a field: `accepts` decides whether it takes a value, `expected` describes such values."""

    expected: str
    accepts: Callable[[object], bool]
    choices: Sequence[str] = ()

    def explain(self, value: object) -> str:
        """Returns a description of the expected values, for a rejected value."""
        if not self.choices:
            return self.expected + (', and finite' if isinstance(value, float) and not math.isfinite(value) else '')
        hint = did_you_mean(value if isinstance(value, str) else shortened(value), self.choices).removeprefix('; ')
        return 'one of ' + ', '.join(self.choices) + (f' ({hint})' if hint else '')


def integer(low: int, high: int = LARGEST_INTEGER) -> Check:
    """Returns a check for an integer in [low, high]."""

    def accepts(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Check(f'an integer of at least {low} and at most {high}', accepts)


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Check:
    """Returns a check for a finite number in [low, high]; `above` and `below` exclude the ends."""

    def accepts(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
            return False
        return low <= value <= high and not (above and value == low) and not (below and value == high)

    upper = '' if math.isinf(high) else f' and {"below" if below else "at most"} {high:g}'
    return Check(f'a number {"above" if above else "of at least"} {low:g}{upper}', accepts)


def one_of(choices: Sequence[str]) -> Check:
    """Returns a check for one of several strings."""
    return Check('', lambda value: isinstance(value, str) and value in choices, choices)


def check_num_seeds(count: int) -> None:
    """Checks a number of seeds.

    Raises:
      ConfigError: the number is not in [1, 10000].
    """
    if not 1 <= count <= _MOST_SEEDS:
        raise ConfigError(f'{count} seeds; expected at least 1 and at most {_MOST_SEEDS}')


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, Mapping) and _is_shallow(value, 100)  # Python 3.12 and later encode thousands of levels


def _is_shallow(value: object, levels: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in items)


def _are_fractions(value: object) -> bool:
    if not isinstance(value, tuple | list) or not all(isinstance(v, int | float) and 0 < v < 1 for v in value):
        return False
    return list(value) == sorted(value)


def _are_class_weights(value: object) -> bool:
    if isinstance(value, str):
        return value in ('', 'balanced')
    positive = number(0, above=True)
    return isinstance(value, tuple | list) and len(value) > 0 and all(positive.accepts(weight) for weight in value)


def _are_epochs(value: object) -> bool:
    if not isinstance(value, tuple | list) or not all(type(v) is int and 0 < v <= LARGEST_INTEGER for v in value):
        return False
    return list(value) == sorted(set(value))


FLAG = Check('True or False', lambda value: isinstance(value, bool))
NAME = Check('a name', lambda value: isinstance(value, str) and bool(value))
OPTIONAL_NAME = Check("a name, or '' for none", lambda value: isinstance(value, str))
PATH = Check("a path, or '' for none", lambda value: isinstance(value, str))
FRACTIONS = Check('increasing fractions of the run, such as (0.5, 0.75)', _are_fractions)
CLASS_WEIGHTS = Check("'' for none, 'balanced', or a number above 0 for each class, such as (1.0, 2.5)", _are_class_weights)
PATTERNS = Check("patterns of layers with commas between, or '' for none", lambda value: isinstance(value, str))
EPOCHS = Check('increasing epochs, such as (2, 4)', _are_epochs)
KEYWORDS = Check(
    'a dict of keyword arguments: numbers, strings, lists, True or False as keyword arguments, which config.json can hold',
    _is_json,
)
