"""Prints the layers of a network: `python -m resnet_jax.models resnet50 --image=224 --stem=imagenet --num_classes=1000`.

Every --name=value but --image and --channels goes to `create_model`.
"""

import ast
import sys
from collections.abc import Sequence
from typing import Any

from resnet_jax.errors import ConfigError, UserError
from resnet_jax.models import available_models, create_model
from resnet_jax.models.introspection import layers, table


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The model's name and the values of the flags, as Python literals where they are.

    Raises:
      ConfigError: no name, more than one, or a flag that is not --name=value.
    """
    names = [argument for argument in arguments if not argument.startswith('-')]
    if len(names) != 1:
        raise ConfigError(
            'expected one model: python -m resnet_jax.models MODEL [--image=32] [--channels=3] [--stem=imagenet ...]; '
            f'available: {", ".join(available_models())}'
        )
    flags: dict[str, Any] = {}
    for argument in arguments:
        if argument.startswith('-'):
            name, equals, value = argument.lstrip('-').partition('=')
            if not equals:
                raise ConfigError(f'{argument} has no value; expected --{name}=VALUE')
            try:
                flags[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                flags[name] = value
    return names[0], flags


def main(arguments: Sequence[str]) -> int:
    try:
        name, flags = parse(arguments)
        image, channels = flags.pop('image', 32), flags.pop('channels', 3)
        print(table(layers(create_model(name, **flags), image, channels)))
    except UserError as error:
        print('error: ' + ' '.join(str(error).split()), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
