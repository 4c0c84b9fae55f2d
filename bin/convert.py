"""Converts weights: python bin/convert.py --from=resnet20.th --model=resnet20 --out=resnet20.safetensors, or those of a run:

python bin/convert.py --workdir=runs/resnet18 --to=torch --out=resnet18.pth
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError

_FROM = flags.DEFINE_string('from', None, 'File of weights: .pth, .pt, .th or .safetensors.')
_MODEL = flags.DEFINE_string('model', None, 'With --from: the name of the model, unless the file says it.')
_MODEL_KWARGS = flags.DEFINE_multi_string('model_kwargs', [], 'With --from: FIELD=VALUE of the model; may be repeated.')
_IMAGE_SHAPE = flags.DEFINE_list('image_shape', None, 'With --from: height,width,channels, if not 32,32,3.')
_NORMALIZATION = flags.DEFINE_string('normalization', None, 'With --from: imagenet, kuangliu, ...: noted in the output.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder, as bin/train.py makes it, instead of a file.')
_EMA = flags.DEFINE_bool('ema', False, 'With --workdir: the averaged parameters.')
_OUT = flags.DEFINE_string('out', None, 'File to write.')
_TO = flags.DEFINE_string('to', None, 'torch or safetensors; by default what the name of --out says.')
_NAMES = flags.DEFINE_string('names', None, 'With --to=torch: torchvision, kuangliu, d2l, ...; by default what fits.')

_FORMATS = {'.pth': 'torch', '.pt': 'torch', '.th': 'torch', '.safetensors': 'safetensors'}


def main(arguments):
    if arguments or bool(_FROM.value) == bool(_WORKDIR.value) or not _OUT.value:
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --out=FILE and either --from=FILE or --workdir=FOLDER, a run folder{extra}')
    to = _TO.value or _FORMATS.get(Path(_OUT.value).suffix)
    if to not in _FORMATS.values():
        raise ConfigError(f'unknown format of {_OUT.value!r}; expected --to=torch or --to=safetensors')
    from resnet_jax.runtime.console import log_to_console
    from resnet_jax.weights import save_safetensors, save_torch

    log_to_console('stderr')
    model, variables, metadata = _from_run() if _WORKDIR.value else _from_file()
    if to == 'torch':
        save_torch(_OUT.value, model, variables, _NAMES.value)
    else:
        save_safetensors(_OUT.value, variables, metadata)
    size = Path(_OUT.value).stat().st_size
    print(f'{metadata["model"]}, {metadata["num_classes"]} classes, as {to}: {_OUT.value}, {size / 1e6:.1f} MB')


def _from_run():
    from resnet_jax.evaluation.run import load_run

    run = load_run(_WORKDIR.value, ema=_EMA.value)
    names = run.dataset['class_names']
    metadata = {**{key: run.config[key] for key in ('model', 'model_kwargs', 'dataset')}, 'num_classes': len(names)}
    described = {key: run.dataset[key] for key in ('class_names', 'image_shape', 'mean', 'std')}
    return run.model, run.variables, {**metadata, **described}


def _from_file():
    from resnet_jax.data.normalization import find_normalization
    from resnet_jax.weights import load_torch

    shape = command_line.parse_shape(_IMAGE_SHAPE.value) if _IMAGE_SHAPE.value else None
    kwargs = command_line.parse_assignments(_MODEL_KWARGS.value)
    model, variables, metadata = load_torch(_FROM.value, _MODEL.value, image_shape=shape, **kwargs)
    if _NORMALIZATION.value:
        metadata['mean'], metadata['std'] = find_normalization(_NORMALIZATION.value)
    return model, variables, metadata


if __name__ == '__main__':
    command_line.run(main)
