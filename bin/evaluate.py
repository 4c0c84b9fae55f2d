"""Evaluates on a test set: python bin/evaluate.py --workdir=runs/resnet18 [--ema] [--json], or weights from elsewhere:

python bin/evaluate.py --weights=resnet20.th --model=resnet20 --normalization=imagenet [--dataset=cifar10] [--json]

With --tta=mirror_translate the logits are averaged over views of each image, and every figure says so.
With --compare=runs/other how the two runs' answers differ, with --corruptions the errors on 15 kinds of corrupted images.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == '__main__':
    from resnet_jax.runtime import huge_pages

    huge_pages.use()

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder, as bin/train.py makes it.')
_EMA = flags.DEFINE_bool('ema', False, 'Use the averaged parameters.')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of a table.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'tfds folder, if the data has moved since.')
_COMPARE = flags.DEFINE_string('compare', None, 'Another finished run folder: how the answers to the same images differ.')
_CORRUPTIONS = flags.DEFINE_bool('corruptions', False, 'Also 15 common corruptions at 5 severities: 75 times the work.')
_WEIGHTS = flags.DEFINE_string('weights', None, 'File of weights, .pth, .pt, .th or .safetensors, instead of a run.')
_MODEL = flags.DEFINE_string('model', None, 'With --weights: the name of the model, unless the file says it.')
_MODEL_KWARGS = flags.DEFINE_multi_string('model_kwargs', [], 'With --weights: FIELD=VALUE of the model; may be repeated.')
_TEST_VIEWS = flags.DEFINE_enum(
    'tta',
    None,
    ['none', 'mirror', 'mirror_translate'],
    "What the logits are averaged over; by default as the run's config says, or none.",
)
_DATASET = flags.DEFINE_string('dataset', 'cifar10', 'With --weights: cifar10, cifar100 or digits.')
_NORMALIZATION = flags.DEFINE_string(
    'normalization', None, "With --weights: imagenet, kuangliu, ...; by default the file's or else the data set's own."
)


def main(arguments):
    if arguments or bool(_WORKDIR.value) == bool(_WEIGHTS.value):
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --workdir=FOLDER, a run folder, or --weights=FILE{extra}')
    from resnet_jax.evaluation.predictions import load_predictions
    from resnet_jax.evaluation.subject import evaluate_subject
    from resnet_jax.evaluation.text import format_evaluation
    from resnet_jax.runtime.console import log_to_console

    log_to_console('stderr')
    other = load_predictions(_COMPARE.value) if _COMPARE.value else None
    subject, more = _run() if _WORKDIR.value else _weights()
    metrics, found = evaluate_subject(subject, other=other, other_name=_COMPARE.value, corruptions=_CORRUPTIONS.value)
    if _JSON.value:
        print(json.dumps({**metrics, **more, **found}))
    else:
        print(format_evaluation(subject.title, subject.dataset.class_names, metrics, found))


def _run():
    from resnet_jax.evaluation.run import load_run
    from resnet_jax.evaluation.subject import subject_of_run

    run = load_run(_WORKDIR.value, ema=_EMA.value)
    folder = None if _EMA.value else _WORKDIR.value
    return subject_of_run(run, folder, _DATA_DIR.value, _TEST_VIEWS.value), {'step': run.step}


def _weights():
    from resnet_jax.data import load_dataset
    from resnet_jax.data.normalization import find_normalization
    from resnet_jax.evaluation.subject import Subject
    from resnet_jax.weights import load_torch

    kwargs = command_line.parse_assignments(_MODEL_KWARGS.value)
    dataset = load_dataset(_DATASET.value, _DATA_DIR.value)
    model, variables, metadata = load_torch(_WEIGHTS.value, _MODEL.value, image_shape=dataset.image_shape, **kwargs)
    mean, std = metadata.get('mean', dataset.mean), metadata.get('std', dataset.std)
    if _NORMALIZATION.value:
        mean, std = find_normalization(_NORMALIZATION.value)
    title = f'{metadata["model"]} from {_WEIGHTS.value}, {dataset.name}'
    more = {'weights': _WEIGHTS.value, 'mean': list(mean), 'std': list(std)}
    return Subject(title, model, variables, dataset, mean, std, tta=_TEST_VIEWS.value or 'none'), more


if __name__ == '__main__':
    command_line.run(main)
