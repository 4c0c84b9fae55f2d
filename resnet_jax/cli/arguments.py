"""Parses flag values that are neither a string nor a number."""

import json
import os
from collections.abc import Sequence

from resnet_jax.errors import ConfigError
from resnet_jax.typing import JsonDict


def parse_assignments(texts: Sequence[str]) -> JsonDict:
    """Returns {'stem': 'imagenet', 'num_filters': 32} for ['stem=imagenet', 'num_filters=32']; values are JSON or strings.

    Raises:
      ConfigError: a text is not FIELD=VALUE.
    """
    result = {}
    for text in texts:
        field, equals, value = text.partition('=')
        if not equals or not field.isidentifier() or field in ('name', 'num_classes', 'image_shape'):
            raise ConfigError(f'{text!r} is not an argument of a model; expected FIELD=VALUE, as stem=imagenet')
        try:
            result[field] = json.loads(value)
        except ValueError:
            result[field] = value
    return result


def expand_home(text: str) -> str:
    """Returns a path with the home folder in place of ~; a shell replaces ~ only at the beginning of a word.

    Raises:
      ConfigError: there is no such home folder.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 (Path's raises RuntimeError)
    if path.startswith('~'):
        raise ConfigError(f'{text} has no home folder to stand for {text.partition("/")[0]}; expected a path, as ./{text}')
    return path


def parse_shape(texts: Sequence[str]) -> tuple[int, int, int]:
    """Returns (32, 32, 3) for ['32', '32', '3'].

    Raises:
      ConfigError: the texts are not three positive integers.
    """
    try:
        height, width, channels = map(int, texts)
        if min(height, width, channels) > 0:
            return height, width, channels
    except ValueError:
        pass
    raise ConfigError(f'{",".join(texts)!r} is not the shape of an image; expected height,width,channels, as 32,32,3')


def parse_counts(flag: str, texts: Sequence[str] | None) -> list[int]:
    """Returns [1, 2, 4] for ['1', '2', '4'], and [] for None.

    Raises:
      ConfigError: the texts are not positive integers.
    """
    try:
        counts = [int(text) for text in texts or ()]
    except ValueError:
        counts = [0]
    if texts == [] or any(count < 1 for count in counts):
        raise ConfigError(f'--{flag} is {",".join(texts or ())!r}; expected positive integers with commas between, as 1,2,4')
    return counts
