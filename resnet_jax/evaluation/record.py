"""Writes a network's predictions to plain files in the run folder, so that reports need neither JAX nor the data."""

from pathlib import Path

import flax.linen as nn
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.data.describe import describe_dataset, sample_images
from resnet_jax.evaluation.examples import choose_examples
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.models import introspection
from resnet_jax.report.optional import optional
from resnet_jax.report.sheet import write_sheet
from resnet_jax.runtime.files import write_atomically, write_json
from resnet_jax.typing import JsonDict


def write_record(folder: str | Path, predictions: Predictions, dataset: Dataset, classifier: Classifier) -> JsonDict:
    """Writes predictions.npz, evaluation.json, samples.npz and plots/samples.png; returns the contents of evaluation.json.

    evaluation.json holds `Predictions.describe`, 'class_names', 'dataset', 'data' (see `describe_dataset`) and the facts of
    `choose_examples`, whose arrays are in samples.npz.
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
    record['confusion'] = record['confusion'].tolist()
    write_atomically(folder / 'samples.npz', lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    write_json(folder / 'evaluation.json', record)
    with optional('The sheet of training images could not be drawn'):
        write_sheet(sample_images(dataset)[0], folder / 'plots' / 'samples.png')
    return record


def describe_model(model: nn.Module, image_size: int, channels: int) -> JsonDict:
    """Returns 'parameters', 'multiply_adds' (for one image) and 'layers' of a network: see `introspection.layers`."""
    layers = introspection.layers(model, image_size, channels)
    return {
        'parameters': sum(layer.params for layer in layers),
        'multiply_adds': sum(layer.multiply_adds for layer in layers),
        'layers': [{**layer._asdict(), 'shape': list(layer.shape)} for layer in layers],
    }
