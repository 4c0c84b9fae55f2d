"""What a run leaves for its report besides its rows: plots, its answers to the test set, what the network is."""

import contextlib
import logging
from typing import Any

from resnet_jax.errors import ResourceError, UserError
from resnet_jax.evaluation.predictions import Predictions, predictor
from resnet_jax.evaluation.record import describe_model, write_record
from resnet_jax.report.page import write_run_report
from resnet_jax.runs.folder import RunFolder
from resnet_jax.training.experiment import Experiment

logger = logging.getLogger(__name__)


def record(experiment: Experiment, folder: RunFolder, variables: Any) -> None:
    """Writes the answers of the network with these variables to the test set; without them, with a warning, if it cannot."""
    dataset, config = experiment.dataset, experiment.config
    height, _, channels = dataset.image_shape
    try:
        answer = predictor(
            experiment.model,
            variables,
            mean=dataset.mean,
            std=dataset.std,
            dtype=experiment.dtype,
            batch_size=config['eval_batch_size'],
            tta=config['tta'],
        )
        predictions = Predictions(answer(dataset.test.image), dataset.test.label, dataset.fingerprint, config['tta'])
        write_record(folder.path, predictions, dataset, variables)
        folder.write_json('model.json', describe_model(experiment.model, height, channels))
    except OSError as error:  # the run has its result without them
        logger.warning('The files for the report could not be written: %s', error)


def leave_failed(folder: RunFolder, error: UserError) -> None:
    """Leaves what came of a run that the same command would end in the same way: failed.json, until it starts again, and the
    report of what it has done."""
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
