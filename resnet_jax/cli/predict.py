"""Classifies image files: {name} --workdir=runs/resnet18 [--top=3] [--ema] [--json] FILE..., or with published weights:

{name} --weights=timm/resnet50.a1_in1k cat.jpg
"""

import dataclasses
import json
from collections.abc import Sequence

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runtime.streams import tell
from resnet_jax.runtime.untrusted import printable

FLAGS = command.Flags()
FLAGS.define('path', 'workdir', None, 'Run folder, as the train command makes it.')
FLAGS.define(
    'path',
    'weights',
    None,
    'Instead of a run: a name (resnet-jax models --weights), hf://OWNER/REPOSITORY or a .safetensors file.',
)
FLAGS.define('integer', 'top', 3, 'How many classes to print.', lower_bound=1)
FLAGS.define('bool', 'ema', False, 'Use the averaged parameters.')
FLAGS.define('bool', 'json', False, 'Print one line of JSON per file.')


def main(arguments: Sequence[str]) -> None:
    workdir, weights = FLAGS.value('workdir'), FLAGS.value('weights')
    if not arguments or bool(workdir) == bool(weights):
        raise ConfigError('expected --workdir=FOLDER or --weights=NAME, and at least one image file')
    import numpy as np

    from resnet_jax.classifier import Classifier, load_run
    from resnet_jax.runtime.console import log_to_console

    log_to_console('stderr')
    ema = FLAGS.value('ema')
    classifier = load_run(workdir, ema=ema) if workdir else Classifier.load(weights, ema=ema)
    classifier = dataclasses.replace(classifier, tta='none')
    images, good, bad = [], [], []
    for path in arguments:
        try:
            images.append(classifier.read(path))
            good.append(path)
        except InputFileError as error:
            bad.append(error)
    if good:
        for path, probabilities in zip(good, classifier.probabilities(np.stack(images), batch_size=100), strict=True):
            order = np.argsort(-probabilities, kind='stable')[: FLAGS.value('top')]
            best = [(classifier.class_names[i], float(probabilities[i])) for i in order]
            if FLAGS.value('json'):
                print(json.dumps({'file': path, 'classes': [{'name': n, 'probability': p} for n, p in best]}))
            else:
                print(printable(f'{path}: ' + ', '.join(f'{name} {100 * p:.1f} %' for name, p in best)), flush=True)
    if bad:  # the other files have been classified; one line for each unreadable file, the last one from the raised error
        for unread in bad[:-1]:
            tell(f'error: {unread}')
        raise bad[-1]
