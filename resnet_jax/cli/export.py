"""Exports a run, or weights, for serving: {name} --workdir=runs/resnet18 --out=FOLDER [--format=onnx] [--ema]

--format=safetensors makes a folder of weights, config.json and a card for the Hugging Face Hub, and prints the entry of the
weights, with their SHA-256, for the table of published weights.
"""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError

FLAGS = command.Flags()
FLAGS.define('path', 'workdir', None, 'Run folder, as the train command makes it.')
FLAGS.define('path', 'weights', None, 'Instead of a run: a file of weights that says what it is of, or a name.')
FLAGS.define('path', 'out', None, 'Folder to make.')
FLAGS.define('enum', 'format', 'stablehlo', ['stablehlo', 'onnx', 'both', 'safetensors'], 'What to write.')
FLAGS.define('bool', 'ema', False, 'Use the averaged parameters.')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax export` with the arguments that are not flags.

    Raises:
      ConfigError: flags are missing or contradict each other.
    """
    workdir, weights, out, kind = (FLAGS.value(name) for name in ('workdir', 'weights', 'out', 'format'))
    if arguments or bool(workdir) == bool(weights) or not out:
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --workdir=FOLDER or --weights=NAME, and --out=FOLDER{extra}')
    import jax

    jax.config.update('jax_platforms', 'cpu')  # leaves the accelerator to training runs
    from resnet_jax.classifier import Classifier, load_run
    from resnet_jax.export import export_classifier
    from resnet_jax.export.hub import table_entry
    from resnet_jax.runtime.console import log_to_console

    log_to_console('stderr')

    formats = ('stablehlo', 'onnx') if kind == 'both' else (kind,)
    ema = FLAGS.value('ema')
    classifier = load_run(workdir, ema=ema) if workdir else Classifier.load(weights, ema=ema)
    for name, difference in export_classifier(classifier, out, formats).items():
        path = Path(out, f'model.{name}')
        size = path.stat().st_size / 1e6
        print(f'{path}  {size:.1f} MB, loaded again and compared: probabilities within {difference:.1g}')
    print(Path(out, 'config.json'))
    print(Path(out, 'README.md'))
    if kind == 'safetensors':
        print(table_entry(out))
