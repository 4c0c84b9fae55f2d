"""Writes a network's predictions to plain files in the run folder, for reports that need neither JAX nor the data."""

import json
import math
from pathlib import Path

import flax.linen as nn
import numpy as np

from resnet_jax.data import Dataset
from resnet_jax.data.describe import describe_dataset, sample_images
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.models import introspection
from resnet_jax.report.optional import optional
from resnet_jax.report.sheet import write_sheet
from resnet_jax.runtime.files import write_atomically
from resnet_jax.typing import JsonDict, Variables

_WRONG = 24  # images kept


def write_record(folder: str | Path, predictions: Predictions, dataset: Dataset, variables: Variables) -> JsonDict:
    """Writes predictions.npz, evaluation.json, samples.npz and plots/samples.png; returns the contents of evaluation.json.

    evaluation.json holds `Predictions.describe`, 'class_names', 'dataset', 'data' (see `describe_dataset`) and 'wrong': for the
    most confident wrong predictions 'index', 'label', 'predicted', 'confidence' and 'label_probability'. samples.npz holds
    'wrong', their images, uint8 `[k, height, width, channels]`, and 'filters', the first convolution's kernel, float32
    `[height, width, in, out]`, if the network begins with one.
    """
    folder = Path(folder)
    predictions.save(folder)
    answers, labels = predictions.log_probabilities, predictions.labels
    predicted, confidence = answers.argmax(axis=1), answers.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind='stable')][:_WRONG]
    record = {
        **predictions.describe(),
        'class_names': list(dataset.class_names),
        'dataset': dataset.name,
        'data': describe_dataset(dataset),
        'wrong': [
            {
                'index': int(i),
                'label': int(labels[i]),
                'predicted': int(predicted[i]),
                'confidence': math.exp(confidence[i]),
                'label_probability': math.exp(answers[i, labels[i]]),
            }
            for i in wrong
        ],
    }
    record['confusion'] = record['confusion'].tolist()
    samples: JsonDict = {'wrong': dataset.test.image[wrong]}
    if (kernel := first_kernel(variables['params'])) is not None:
        samples['filters'] = kernel
    write_atomically(folder / 'samples.npz', lambda file: np.savez(file, **samples))
    write_json(folder / 'evaluation.json', record)
    with optional('The sheet of training images could not be drawn'):
        write_sheet(sample_images(dataset)[0], folder / 'plots' / 'samples.png')
    return record


def first_kernel(params: Variables) -> np.ndarray | None:
    """Returns the first convolution's kernel, float32 `[height, width, in, out]`; None if there is none."""
    for name in ('conv1', 'stem_conv1'):
        kernel = params.get(name, {}).get('kernel')
        if kernel is not None and np.ndim(kernel) == 4:
            return np.asarray(kernel, np.float32)
    return None


def describe_model(model: nn.Module, image_size: int, channels: int) -> JsonDict:
    """Returns 'parameters', 'multiply_adds' (for one image) and 'layers' of a network: see `introspection.layers`."""
    layers = introspection.layers(model, image_size, channels)
    return {
        'parameters': sum(layer.params for layer in layers),
        'multiply_adds': sum(layer.multiply_adds for layer in layers),
        'layers': [{**layer._asdict(), 'shape': list(layer.shape)} for layer in layers],
    }


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=1) + '\n')
