"""Writes a network's predictions to plain files in the run folder, so that reports need neither JAX nor the data."""

from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.data.describe import describe_dataset, sample_images
from resnet_jax.evaluation.examples import choose_examples
from resnet_jax.evaluation.predictions import Predictions, predict_split
from resnet_jax.models import introspection
from resnet_jax.report.optional import optional
from resnet_jax.report.sheet import write_sheet
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runtime.files import write_atomically, write_json
from resnet_jax.typing import Json, JsonDict

_SHOWN = 12  # number of mistakes in TensorBoard
_LARGEST_MATRIX = 1000  # classes


def record_run(folder: RunFolder, classifier: Classifier, dataset: Dataset, batch_size: int) -> None:
    """Writes the test-set predictions and the model's description; logs a warning if they cannot be written."""
    height, _, channels = dataset.image_shape
    with optional('The files for the report could not be written'):  # the run's result does not need them
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


def write_record(folder: str | Path, predictions: Predictions, dataset: Dataset, classifier: Classifier) -> JsonDict:
    """Writes predictions.npz, evaluation.json, samples.npz and plots/samples.png; returns the contents of evaluation.json.

    evaluation.json has the entries of `Predictions.describe`, 'class_names', 'dataset', 'data' (see `describe_dataset`) and the
    facts of `choose_examples`; 'confusion' is as `confusion_as_json` makes it. samples.npz has the arrays of `choose_examples`.
    """
    folder = Path(folder)
    predictions.save(folder)
    arrays: dict[str, np.ndarray] = {}
    facts: JsonDict = {'wrong': []}
    with optional('The examples for the report could not be chosen'):
        arrays, facts = choose_examples(classifier, dataset, predictions)
    record = {
        **predictions.describe(),
        'class_names': list(dataset.class_names),
        'dataset': dataset.name,
        'data': describe_dataset(dataset),
        **facts,
    }
    record['confusion'] = confusion_as_json(record['confusion'])
    write_atomically(folder / 'samples.npz', lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    write_json(folder / 'evaluation.json', record)
    with optional('The sheet of training images could not be drawn'):
        write_sheet(sample_images(dataset)[0], folder / 'plots' / 'samples.png')
    return record


def confusion_as_json(confusion: np.ndarray) -> list[list[int]]:
    """Returns the rows of a confusion matrix, or of more than 1,000 classes the list of [row, column, count] where count > 0.

    The rows of 10,000 classes would take 600 MB. A row of so many classes is longer than three, so readers can tell them apart.
    """
    if len(confusion) <= _LARGEST_MATRIX:
        rows: list[list[int]] = confusion.tolist()
        return rows
    places = np.nonzero(confusion)
    entries: list[list[int]] = np.stack([*places, confusion[places]], axis=1).tolist()
    return entries


def describe_model(model: nn.Module, image_size: int, channels: int) -> JsonDict:
    """Returns 'parameters', 'multiply_adds' (for one image) and 'layers' of a network: see `introspection.layers`."""
    layers = introspection.layers(model, image_size, channels)
    return {
        'parameters': sum(layer.params for layer in layers),
        'multiply_adds': sum(layer.multiply_adds for layer in layers),
        'layers': [{**layer._asdict(), 'shape': list(layer.shape)} for layer in layers],
    }
