"""Lists the networks, or prints the layers of one: {name} [resnet50 [--image=224] [--model_kwargs=stem=imagenet]]"""

from collections.abc import Sequence

from resnet_jax.cli import command
from resnet_jax.cli.arguments import parse_assignments
from resnet_jax.errors import ConfigError

FLAGS = command.Flags()
FLAGS.define('integer', 'image', 32, 'Height and width of the images.', lower_bound=1, upper_bound=4096)
FLAGS.define('integer', 'channels', 3, 'Their channels.', lower_bound=1, upper_bound=4096)
FLAGS.define('integer', 'num_classes', 10, 'Number of logits.', lower_bound=1)
FLAGS.define('multi_string', 'model_kwargs', [], 'FIELD=VALUE of the model; may be repeated.')


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise ConfigError(f'unexpected argument {arguments[1]!r}; expected one model')
    from resnet_jax.models import available_models, create_model
    from resnet_jax.models.introspection import layers, table

    if not arguments:
        print('\n'.join(available_models()))
        return
    model = create_model(arguments[0], num_classes=FLAGS.value('num_classes'), **parse_assignments(FLAGS.value('model_kwargs')))
    print(table(layers(model, FLAGS.value('image'), FLAGS.value('channels'))))
