"""Exports a run for serving: {name} --workdir=runs/resnet18 --out=FOLDER [--format=onnx] [--ema]"""

from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError

FLAGS = command.Flags()
FLAGS.define('path', 'workdir', None, 'Run folder, as the train command makes it.')
FLAGS.define('path', 'out', None, 'Folder to make.')
FLAGS.define('enum', 'format', 'stablehlo', ['stablehlo', 'onnx', 'both'], 'What to write.')
FLAGS.define('bool', 'ema', False, 'Use the averaged parameters.')


def main(arguments: Sequence[str]) -> None:
    workdir, out, kind = (FLAGS.value(name) for name in ('workdir', 'out', 'format'))
    if arguments or not workdir or not out:
        raise ConfigError('expected --workdir=FOLDER and --out=FOLDER' + (f', not {arguments[0]!r}' if arguments else ''))
    import jax

    jax.config.update('jax_platforms', 'cpu')  # leaves the accelerator to training runs
    from resnet_jax.classifier import load_run
    from resnet_jax.export import FORMATS, export_classifier

    formats = tuple(FORMATS) if kind == 'both' else (kind,)
    classifier = load_run(workdir, ema=FLAGS.value('ema'))
    for name, difference in export_classifier(classifier, out, formats).items():
        path = Path(out, f'model.{name}')
        size = path.stat().st_size / 1e6
        print(f'{path}  {size:.1f} MB, loaded again and compared: probabilities within {difference:.1g}')
    print(Path(out, 'README.md'))
