"""Classifies image files: {name} --workdir=runs/resnet18 [--top=3] [--ema] [--json] FILE..., or with published weights:

{name} --weights=timm/resnet50.a1_in1k cat.jpg

--explain=why.png draws which parts of each image speak for the predicted class.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax.cli import command
from resnet_jax.errors import ConfigError, InputFileError, ResourceError
from resnet_jax.runtime.streams import tell
from resnet_jax.runtime.untrusted import printable

if TYPE_CHECKING:
    import numpy as np

    from resnet_jax.classifier import Classifier

_MOST_EXPLAINED = 40  # largest number of images in one figure

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
FLAGS.define('path', 'explain', None, 'Draw what speaks for the most likely class of each image into this .png or .svg.')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax predict` with the arguments that are not flags.

    Raises:
      ConfigError: flags or files are missing, the suffix of --explain is unknown, or --explain gets too many images.
    """
    workdir, weights = FLAGS.value('workdir'), FLAGS.value('weights')
    if not arguments or bool(workdir) == bool(weights):
        raise ConfigError('expected --workdir=FOLDER or --weights=NAME, and at least one image file')
    explain = FLAGS.value('explain')
    if explain and Path(explain).suffix not in ('.png', '.svg'):
        raise ConfigError(f'--explain={explain} is not the name of a picture; expected one that ends in .png or .svg')
    if explain and len(arguments) > _MOST_EXPLAINED:
        raise ConfigError(f'--explain draws {_MOST_EXPLAINED} images at most, not {len(arguments)}; name fewer files')
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
        answers = classifier.probabilities(np.stack(images), batch_size=100)
        for path, probabilities in zip(good, answers, strict=True):
            order = np.argsort(-probabilities, kind='stable')[: FLAGS.value('top')]
            best = [(classifier.class_names[i], float(probabilities[i])) for i in order]
            if FLAGS.value('json'):
                print(json.dumps({'file': path, 'classes': [{'name': n, 'probability': p} for n, p in best]}))
            else:
                print(printable(f'{path}: ' + ', '.join(f'{name} {100 * p:.1f} %' for name, p in best)), flush=True)
        if explain:
            _explain(classifier, good, np.stack(images), answers, Path(explain))
    if bad:  # the other files are classified; each unreadable file gets a line, the last one from the raised error
        for unread in bad[:-1]:
            tell(f'error: {unread}')
        raise bad[-1]


def _explain(
    classifier: 'Classifier', paths: Sequence[str], images: 'np.ndarray', answers: 'np.ndarray', picture: Path
) -> None:
    from resnet_jax.evaluation.explanations import grad_cam, input_gradients, integrated_gradients
    from resnet_jax.report.explanations import Explained, draw_explanations
    from resnet_jax.report.figures import save

    best = answers.argmax(axis=1)
    parts = [function(classifier, images, best) for function in (grad_cam, input_gradients, integrated_gradients)]
    titles = [
        f'{Path(path).name}: {classifier.class_names[i]}, {100 * row[i]:.1f} %'
        for path, i, row in zip(paths, best, answers, strict=True)
    ]
    rows = [Explained(*row) for row in zip(titles, images, *parts, strict=True)]
    try:
        save(draw_explanations(rows), picture)
    except OSError as error:
        raise ResourceError(f'{picture} cannot be written: {error.strerror or error}; choose another place') from None
    tell(f'What speaks for the most likely class of each image: {picture}')
