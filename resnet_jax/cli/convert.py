"""Converts weights: {name} --from=resnet20.th --model=resnet20 --out=resnet20.safetensors, or those of a run:

{name} --workdir=runs/resnet18 --to=torch --out=resnet18.pth
"""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.cli.arguments import parse_assignments, parse_shape
from resnet_jax.errors import ConfigError

FLAGS = command.Flags()
FLAGS.define('path', 'from', None, 'File of weights, .pth, .pt, .th or .safetensors, or a name.')
FLAGS.define('string', 'model', None, 'With --from: the name of the model, unless the file says it.')
FLAGS.define('multi_string', 'model_kwargs', [], 'With --from: FIELD=VALUE of the model; may be repeated.')
FLAGS.define('list', 'image_shape', None, 'With --from: height,width,channels, if not 32,32,3.')
FLAGS.define('string', 'normalization', None, 'With --from: imagenet, kuangliu, ...: noted in the output.')
FLAGS.define('path', 'workdir', None, 'Run folder, as the train command makes it, instead of a file.')
FLAGS.define('bool', 'ema', False, 'Take the averaged parameters; of a file, those of an entry such as state_dict_ema.')
FLAGS.define('path', 'out', None, 'File to write.')
FLAGS.define('string', 'to', None, 'torch or safetensors; by default what the name of --out says.')
FLAGS.define('string', 'names', None, 'With --to=torch: torchvision, kuangliu, d2l, ...; by default what fits.')

_FORMATS = {'.pth': 'torch', '.pt': 'torch', '.th': 'torch', '.safetensors': 'safetensors'}


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax convert` with the arguments that are not flags.

    Raises:
      ConfigError: flags are missing or contradict each other, or the format is unknown.
    """
    source, workdir, out = (FLAGS.value(name) for name in ('from', 'workdir', 'out'))
    if arguments or bool(source) == bool(workdir) or not out:
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --out=FILE and either --from=FILE or --workdir=FOLDER, a run folder{extra}')
    to = FLAGS.value('to') or _FORMATS.get(Path(out).suffix)
    if to not in _FORMATS.values():
        raise ConfigError(f'unknown format of {out!r}; expected --to=torch or --to=safetensors')
    from resnet_jax.classifier import Classifier, load_run
    from resnet_jax.runtime.console import log_to_console
    from resnet_jax.weights import save_safetensors, save_torch

    log_to_console('stderr')
    if workdir:
        classifier = load_run(workdir, ema=FLAGS.value('ema'))
    else:
        shape = parse_shape(FLAGS.value('image_shape')) if FLAGS.value('image_shape') else None
        kwargs = parse_assignments(FLAGS.value('model_kwargs'))
        classifier = Classifier.load(
            source,
            model=FLAGS.value('model'),
            image_shape=shape,
            normalization=FLAGS.value('normalization'),
            ema=FLAGS.value('ema'),
            **kwargs,
        )
    if to == 'torch':
        save_torch(out, classifier.model, classifier.variables, FLAGS.value('names'))
    else:
        save_safetensors(out, classifier.variables, classifier.describe())
    size = Path(out).stat().st_size
    print(f'{classifier.origin.model}, {len(classifier.class_names)} classes, as {to}: {out}, {size / 1e6:.1f} MB')
