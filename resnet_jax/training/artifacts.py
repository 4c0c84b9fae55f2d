"""What a run leaves for its report besides its rows: plots, its answers to the test set, what the network is."""

import contextlib
import logging
from typing import Any

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.errors import ResourceError, UserError
from resnet_jax.evaluation.predictions import Predictions, predictor
from resnet_jax.evaluation.record import describe_model, write_record
from resnet_jax.report.page import write_run_report
from resnet_jax.runs.folder import RunFolder
from resnet_jax.training.experiment import Experiment

logger = logging.getLogger(__name__)


def create_classifier(experiment: Experiment, dataset: Dataset, variables: Any, step: int) -> Classifier:
    """Returns the network of an experiment with these variables, after so many steps."""
    return Classifier(
        model=experiment.model,
        variables=variables,
        image_shape=dataset.image_shape,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        dtype=experiment.dtype,
        tta=experiment.config.tta,
    )


def record(folder: RunFolder, classifier: Classifier, dataset: Dataset, batch_size: int) -> None:
    """Writes the network's answers to the test set; if it cannot, there is a warning and no file."""
    height, _, channels = dataset.image_shape
    try:
        answer = predictor(
            classifier.model,
            classifier.variables,
            mean=classifier.mean,
            std=classifier.std,
            dtype=classifier.dtype,
            batch_size=batch_size,
            tta=classifier.tta,
        )
        predictions = Predictions(answer(dataset.test.image), dataset.test.label, dataset.fingerprint, classifier.tta)
        write_record(folder.path, predictions, dataset, classifier.variables)
        folder.write_json('model.json', describe_model(classifier.model, height, channels))
    except OSError as error:  # the run has its result without them
        logger.warning('The files for the report could not be written: %s', error)


def leave_failed(folder: RunFolder, error: UserError) -> None:
    """Writes failed.json, for an error that the same command would meet again, and the report of what has been done."""
    if folder.primary:
        with contextlib.suppress(ResourceError):  # the error that is on its way says more
            folder.write_json('failed.json', {'exit_code': error.exit_code, 'reason': f'error: {error}'})
            write_run_report(folder.path)


def plot(folder: RunFolder) -> None:
    """Draws the metrics so far, if this process writes and there are any."""
    if folder.primary and (folder.path / 'metrics.jsonl').exists():
        from resnet_jax.report.plots import plot_training  # matplotlib takes half a second

        try:
            plot_training(folder.path)
        except (OSError, ValueError) as error:  # it must not hide what ended the run, nor end it
            logger.warning('The plot could not be drawn: %s', error)
