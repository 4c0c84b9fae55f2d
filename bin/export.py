"""Exports a run for serving: python bin/export.py --workdir=runs/resnet18 --out=FOLDER [--format=onnx] [--ema]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder, as bin/train.py makes it.')
_OUT = flags.DEFINE_string('out', None, 'Folder to make.')
_FORMAT = flags.DEFINE_enum('format', 'stablehlo', ['stablehlo', 'onnx', 'both'], 'What to write.')
_EMA = flags.DEFINE_bool('ema', False, 'Use the averaged parameters.')


def main(arguments):
    if arguments or not _WORKDIR.value or not _OUT.value:
        raise ConfigError('expected --workdir=FOLDER and --out=FOLDER' + (f', not {arguments[0]!r}' if arguments else ''))
    import jax

    jax.config.update('jax_platforms', 'cpu')  # whoever trains may keep the accelerator
    from resnet_jax.export import FORMATS, export_run

    formats = tuple(FORMATS) if _FORMAT.value == 'both' else (_FORMAT.value,)
    for name, difference in export_run(_WORKDIR.value, _OUT.value, formats, ema=_EMA.value).items():
        path = Path(_OUT.value, f'model.{name}')
        size = path.stat().st_size / 1e6
        print(f'{path}  {size:.1f} MB, loaded again and compared: probabilities within {difference:.1g}')
    print(Path(_OUT.value, 'README.md'))


if __name__ == '__main__':
    command_line.run(main)
