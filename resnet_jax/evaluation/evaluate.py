"""Evaluates a classifier on a data set's test split: metrics, and optionally a comparison, corruptions and plots."""

import logging
from pathlib import Path

from resnet_jax.classifier import Classifier
from resnet_jax.config import TrainConfig
from resnet_jax.data import Dataset
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.predictions import Predictions, check_same_examples, predict_split
from resnet_jax.evaluation.record import confusion_as_json, write_record
from resnet_jax.evaluation.robustness import evaluate_corruptions
from resnet_jax.report.optional import optional
from resnet_jax.runtime.files import write_json
from resnet_jax.runtime.untrusted import check_owned_files
from resnet_jax.significance import compare_answers
from resnet_jax.typing import JsonDict

logger = logging.getLogger(__name__)


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    batch_size: int = TrainConfig.eval_batch_size,
    folder: str | Path | None = None,
    other: Predictions | None = None,
    other_name: str = '',
    corruptions: bool = False,
) -> tuple[JsonDict, JsonDict]:
    """Evaluates on every example of the test split.

    Args:
      folder: the run folder to which predictions, evaluation and plots are written. If the data set or the test-time
        augmentation differs from the run's, nothing is written, because it would contradict the run's result.
      other: another network's predictions to compare with.
      other_name: the name of that network.
      corruptions: also evaluate on corrupted images; this is 75 times the work.

    Returns:
      `metrics.describe` as JSON (see `record.confusion_as_json`), and a dict with the requested entries: 'agreement'
      (`significance.compare_answers` and 'same_class', the number of images to which both networks give the same class, right
      or wrong), 'corruptions' (see `robustness.evaluate_corruptions`) and 'plots' ({name: path}).

    Raises:
      ConfigError: the classifier does not fit the data set, or the two networks' test sets differ.
    """
    check_fits(classifier, dataset)
    if other is not None:
        check_same_examples(other, dataset)
    origin = classifier.origin
    more: JsonDict = {}
    predictions = predict_split(classifier, dataset, batch_size)
    metrics = predictions.describe()
    if other is not None:
        compared = compare_answers(predictions.correct, other.correct)
        same = int((predictions.log_probabilities.argmax(axis=1) == other.log_probabilities.argmax(axis=1)).sum())
        more['agreement'] = {'with': other_name, 'with_tta': other.tta, 'same_class': same, **compared}
    if corruptions:

        def show_progress(done: int, total: int) -> None:
            logger.info('Corruptions: %d of %d', done, total)

        errors = evaluate_corruptions(
            lambda images: classifier.log_probabilities(images, batch_size), dataset.test, progress=show_progress
        )
        more['corruptions'] = {**errors, 'tta': classifier.tta}
    if origin.fingerprint and dataset.fingerprint != origin.fingerprint:
        what = dataset.name if dataset.name != origin.dataset else f'other files of {dataset.name}'
        logger.warning('The data are not those that the run was trained on: %s.', what)
        folder = None
    if origin.config and origin.config.tta != classifier.tta:
        folder = None
    if folder:
        try:
            more['plots'] = _keep(Path(folder), classifier, dataset, predictions, metrics, more)
        except OSError as error:  # for example another user's run folder
            logger.warning('The files of the run folder could not be written: %s', error)
    return {**metrics, 'confusion': confusion_as_json(metrics['confusion'])}, more


def check_fits(classifier: Classifier, dataset: Dataset) -> None:
    """Checks that a classifier can be evaluated on a data set.

    Raises:
      ConfigError: the number of classes or the shape of the images differs.
    """
    if len(classifier.class_names) != dataset.num_classes:
        raise ConfigError(
            f'the network has {len(classifier.class_names)} classes and {dataset.name} has {dataset.num_classes}; '
            'expected as many: choose the data set that it was trained on'
        )
    if tuple(classifier.image_shape) != tuple(dataset.image_shape):
        raise ConfigError(
            f'the network takes images of {list(classifier.image_shape)} and {dataset.name} has {list(dataset.image_shape)}; '
            'choose the data set that it was trained on'
        )


def _keep(
    folder: Path,
    classifier: Classifier,
    dataset: Dataset,
    predictions: Predictions,
    metrics: JsonDict,
    more: JsonDict,
) -> dict[str, str]:
    check_owned_files(folder)
    write_record(folder, predictions, dataset, classifier)
    if 'corruptions' in more:
        write_json(folder / 'corruptions.json', more['corruptions'])
    plots: dict[str, str] = {}
    with optional('The plots could not be written'):
        from resnet_jax.report.plots import plot_confusion, plot_corruptions

        confusion = plot_confusion(metrics['confusion'], dataset.class_names, folder / 'plots' / 'confusion.png')
        plots['confusion matrix'] = str(confusion)
        if 'corruptions' in more:
            plots['corruptions'] = str(plot_corruptions(more['corruptions'], folder / 'plots' / 'corruptions.png'))
    return plots
