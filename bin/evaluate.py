"""Evaluates a run on its test set: python bin/evaluate.py --workdir=runs/resnet18 [--ema] [--json]."""

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


def main(arguments):
    if arguments or not _WORKDIR.value:
        raise ConfigError('expected --workdir=FOLDER' + (f', not {arguments[0]!r}' if arguments else ', a run folder'))
    from resnet_jax.evaluation.evaluator import evaluate_run
    from resnet_jax.evaluation.run import load_run
    from resnet_jax.report.plots import plot_confusion
    from resnet_jax.training.console import log_to_console

    log_to_console('stderr')
    run = load_run(_WORKDIR.value, ema=_EMA.value)
    metrics = evaluate_run(run, _DATA_DIR.value)
    names = run.dataset['class_names']
    plot = plot_confusion(metrics['confusion'], names, Path(_WORKDIR.value, 'plots', 'confusion.png'))
    if _JSON.value:
        print(json.dumps({**metrics, 'confusion': metrics['confusion'].tolist(), 'step': run.step, 'plot': str(plot)}))
        return
    width = max(map(len, names))
    print(f'{run.config["model"]} after {run.step} iterations, {run.dataset["name"]} test set, {metrics["count"]} images')
    print(f'accuracy  {100 * metrics["accuracy"]:.2f} %')
    print(f'loss      {metrics["loss"]:.4f}')
    print('accuracy by class')
    for name, accuracy in zip(names, metrics['per_class_accuracy'], strict=True):
        print(f'  {name:{width}}  ' + ('no example' if accuracy is None else f'{100 * accuracy:6.2f} %'))
    print(f'confusion matrix: {plot}')


if __name__ == '__main__':
    command_line.run(main)
