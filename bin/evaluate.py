"""Evaluates on a test set: python bin/evaluate.py --workdir=runs/resnet18 [--ema] [--json], or weights from elsewhere:

python bin/evaluate.py --weights=resnet20.th --model=resnet20 --normalization=imagenet [--dataset=cifar10] [--json]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from resnet_jax import command_line
from resnet_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder, as bin/train.py makes it.')
_EMA = flags.DEFINE_bool('ema', False, 'Use the averaged parameters.')
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of a table.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'tfds folder, if the data has moved since.')
_WEIGHTS = flags.DEFINE_string('weights', None, 'File of weights, .pth, .pt, .th or .safetensors, instead of a run.')
_MODEL = flags.DEFINE_string('model', None, 'With --weights: the name of the model, unless the file says it.')
_MODEL_KWARGS = flags.DEFINE_multi_string('model_kwargs', [], 'With --weights: FIELD=VALUE of the model; may be repeated.')
_DATASET = flags.DEFINE_string('dataset', 'cifar10', 'With --weights: cifar10, cifar100 or digits.')
_NORMALIZATION = flags.DEFINE_string(
    'normalization', None, "With --weights: imagenet, kuangliu, ...; by default the file's or else the data set's own."
)


def main(arguments):
    if arguments or bool(_WORKDIR.value) == bool(_WEIGHTS.value):
        extra = f', not {arguments[0]!r}' if arguments else ''
        raise ConfigError(f'expected --workdir=FOLDER, a run folder, or --weights=FILE{extra}')
    from resnet_jax.training.console import log_to_console

    log_to_console('stderr')
    title, names, metrics, more = _evaluate_run() if _WORKDIR.value else _evaluate_weights()
    if _JSON.value:
        print(json.dumps({**metrics, 'confusion': metrics['confusion'].tolist(), **more}))
        return
    width = max(map(len, names))
    print(f'{title} test set, {metrics["count"]} images')
    print(f'accuracy  {100 * metrics["accuracy"]:.2f} %')
    print(f'loss      {metrics["loss"]:.4f}')
    print('accuracy by class')
    for name, accuracy in zip(names, metrics['per_class_accuracy'], strict=True):
        print(f'  {name:{width}}  ' + ('no example' if accuracy is None else f'{100 * accuracy:6.2f} %'))
    if 'plot' in more:
        print(f'confusion matrix: {more["plot"]}')


def _evaluate_run():
    from resnet_jax.evaluation.evaluator import evaluate_run
    from resnet_jax.evaluation.run import load_run
    from resnet_jax.report.plots import plot_confusion

    run = load_run(_WORKDIR.value, ema=_EMA.value)
    metrics = evaluate_run(run, _DATA_DIR.value)
    names = run.dataset['class_names']
    title = f'{run.config["model"]} after {run.step} iterations, {run.dataset["name"]}'
    more = {'step': run.step}
    try:
        more['plot'] = str(plot_confusion(metrics['confusion'], names, Path(_WORKDIR.value, 'plots', 'confusion.png')))
    except OSError as error:  # somebody else's run folder, say
        print(f'The confusion matrix could not be drawn: {error}', file=sys.stderr)
    return title, names, metrics, more


def _evaluate_weights():
    from resnet_jax.data import load_dataset
    from resnet_jax.data.normalization import find_normalization
    from resnet_jax.evaluation.evaluator import evaluate_network
    from resnet_jax.weights import load_torch

    kwargs = command_line.parse_assignments(_MODEL_KWARGS.value)
    dataset = load_dataset(_DATASET.value, _DATA_DIR.value)
    model, variables, metadata = load_torch(_WEIGHTS.value, _MODEL.value, image_shape=dataset.image_shape, **kwargs)
    mean, std = metadata.get('mean', dataset.mean), metadata.get('std', dataset.std)
    if _NORMALIZATION.value:
        mean, std = find_normalization(_NORMALIZATION.value)
    metrics = evaluate_network(model, variables, dataset, mean=mean, std=std)
    title = f'{metadata["model"]} from {_WEIGHTS.value}, {dataset.name}'
    return title, dataset.class_names, metrics, {'weights': _WEIGHTS.value, 'mean': list(mean), 'std': list(std)}


if __name__ == '__main__':
    command_line.run(main)
