"""Files that a run writes for its report: plots, test-set predictions and a description of the network."""

import contextlib
from collections.abc import Sequence

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.errors import ResourceError, UserError
from resnet_jax.evaluation.predictions import predict_split
from resnet_jax.evaluation.record import describe_model, write_record
from resnet_jax.report.optional import optional
from resnet_jax.report.page import write_run_report
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.rows import METRICS
from resnet_jax.typing import Json

_SHOWN = 12  # mistakes in TensorBoard


def record(folder: RunFolder, classifier: Classifier, dataset: Dataset, batch_size: int) -> None:
    """Writes the test-set predictions and the model's description; logs a warning if they cannot be written."""
    height, _, channels = dataset.image_shape
    with optional('The files for the report could not be written'):  # the run has its result without them
        predictions = predict_split(classifier, dataset, batch_size)
        written = write_record(folder.path, predictions, dataset, classifier)
        folder.write_json('model.json', describe_model(classifier.model, height, channels))
        _show_mistakes(folder, classifier, dataset, written['wrong'][:_SHOWN])


def _show_mistakes(folder: RunFolder, classifier: Classifier, dataset: Dataset, wrong: Sequence[Json]) -> None:
    images = dataset.test.image[np.array([mistake['index'] for mistake in wrong], int)]
    images = images if images.shape[-1] == 3 else images[..., :1]
    names = dataset.class_names
    titles = [
        f'mistakes/{place:02} {names[mistake["label"]]}, taken for {names[mistake["predicted"]]} '
        f'({100 * mistake["confidence"]:.0f} %)'
        for place, mistake in enumerate(wrong, 1)
    ]
    folder.write_images(classifier.origin.step or 0, 'test', dict(zip(titles, images, strict=True)))


def leave_failed(folder: RunFolder, error: UserError) -> None:
    """Writes failed.json, for an error that would recur with the same command, and the report so far."""
    if folder.primary:
        with contextlib.suppress(ResourceError):  # the original error is more informative
            folder.write_json('failed.json', {'exit_code': error.exit_code, 'reason': f'error: {error}'})
            write_run_report(folder.path)


def plot(folder: RunFolder) -> None:
    """Plots the metrics so far, if there are any and this process writes files."""
    if folder.primary and (folder.path / METRICS).exists():
        with optional('The plot could not be drawn'):  # it must not hide what ended the run, nor end it
            from resnet_jax.report.plots import plot_training  # matplotlib takes half a second

            plot_training(folder.path)
