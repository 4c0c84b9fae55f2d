"""Lists the networks, or prints the layers of one: {name} [resnet50 [--image=224] [--model_kwargs=stem=imagenet]]

{name} --weights [resnet50]

lists published weights, of all networks or of one, that other commands take by name.
"""

import math
from collections.abc import Sequence

from resnet_jax.cli import command
from resnet_jax.cli.arguments import parse_assignments
from resnet_jax.config import LARGEST_SIDE
from resnet_jax.errors import ConfigError

FLAGS = command.Flags()
FLAGS.define('integer', 'image', 32, 'Height and width of the images.', lower_bound=1, upper_bound=LARGEST_SIDE)
FLAGS.define('integer', 'channels', 3, 'Their channels.', lower_bound=1, upper_bound=LARGEST_SIDE)
FLAGS.define('integer', 'num_classes', 10, 'Number of logits.', lower_bound=1)
FLAGS.define('bool', 'weights', False, 'List published weights: name, top-1 accuracy, data, size of image, licence.')
FLAGS.define('multi_string', 'model_kwargs', [], 'FIELD=VALUE of the model; may be repeated.')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax models` with the arguments that are not flags.

    Raises:
      ConfigError: there is more than one argument.
    """
    if len(arguments) > 1:
        raise ConfigError(f'unexpected argument {arguments[1]!r}; expected one model')
    from resnet_jax.models import available_models, create_model
    from resnet_jax.models.introspection import layers, table
    from resnet_jax.weights.published import available_weights, find_weights

    if FLAGS.value('weights'):
        names = available_weights(*arguments)
        width = max(map(len, names), default=0)
        for entry in map(find_weights, names):
            side, _, channels = entry.image_shape
            facts = f'{entry.accuracy or math.nan:6.2f} %  {entry.dataset:8}  {side}x{side}x{channels}'
            print(f'{entry.name:{width}}  {facts:31} {entry.licence}')
        return
    if not arguments:
        print('\n'.join(available_models()))
        return
    model = create_model(arguments[0], num_classes=FLAGS.value('num_classes'), **parse_assignments(FLAGS.value('model_kwargs')))
    print(table(layers(model, FLAGS.value('image'), FLAGS.value('channels'))))
