"""Classifies image files: python bin/predict.py --workdir=runs/resnet18 [--top=3] [--ema] [--json] FILE..."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError, InputFileError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder, as bin/train.py makes it.')
_TOP = flags.DEFINE_integer('top', 3, 'How many classes to print.', lower_bound=1)
_EMA = flags.DEFINE_bool('ema', False, 'Use the averaged parameters.')
_JSON = flags.DEFINE_bool('json', False, 'Print one line of JSON per file.')


def main(arguments):
    if not arguments or not _WORKDIR.value:
        raise ConfigError('expected --workdir=FOLDER and at least one image file')
    from resnet_jax.evaluation.images import read_image
    from resnet_jax.evaluation.run import load_run

    run = load_run(_WORKDIR.value, ema=_EMA.value)
    images, good, bad = [], [], []
    for path in arguments:
        try:
            images.append(read_image(path, run.dataset['image_shape']))
            good.append(path)
        except InputFileError as error:
            bad.append(error)
    names = run.dataset['class_names']
    if good:
        for path, probabilities in zip(good, run.predict(np.stack(images)), strict=True):
            best = [(names[i], float(probabilities[i])) for i in np.argsort(-probabilities, kind='stable')[: _TOP.value]]
            if _JSON.value:
                print(json.dumps({'file': path, 'classes': [{'name': n, 'probability': p} for n, p in best]}))
            else:
                print(f'{path}: ' + ', '.join(f'{name} {100 * p:.1f} %' for name, p in best), flush=True)
    if bad:  # the others have been answered; one line for each, the last by the way out
        for error in bad[:-1]:
            print(f'error: {error}', file=sys.stderr)
        raise bad[-1]


if __name__ == '__main__':
    command_line.run(main)
