"""Exports a classifier as a repository for the Hugging Face Hub: model.safetensors, config.json and the card.

`resnet_jax.load` reads the folder and, as 'hf://OWNER/REPOSITORY', the repository to which it is uploaded. Both need only
model.safetensors, because its metadata are complete; config.json repeats the metadata for other programs.
"""

import json
from pathlib import Path

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.export.card import result_of
from resnet_jax.runtime.files import sha256_of, write_json
from resnet_jax.typing import JsonDict

_FILE = 'model.safetensors'


def write(classifier: Classifier, path: Path) -> Classifier:
    """Writes the weights, and returns the classifier with which the file must agree: `classifier` itself.

    Raises:
      ConfigError: the name of the model is unknown.
      ResourceError: the file cannot be written.
    """
    classifier.save(path)
    return classifier


def reload(path: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of the classifier that the file describes."""
    classifier = Classifier.load(path)
    return [classifier.probabilities(batch) for batch in batches]


def write_config(classifier: Classifier, folder: Path) -> None:
    """Writes config.json: the model of the weights, their SHA-256 and, for a finished run, the result.

    Raises:
      InputFileError: result.json of the run cannot be read.
      OSError: the file cannot be written.
    """
    digest = sha256_of(folder / _FILE)
    result = {name: value for name, value in result_of(classifier).items() if name in ('split', 'count', 'accuracy', 'loss')}
    config = {'library_name': 'resnet_jax', **classifier.describe(), 'sha256': digest, **({'result': result} if result else {})}
    write_json(folder / 'config.json', config)


def table_entry(folder: str | Path) -> str:
    """Returns the entry of an exported folder for the table in weights/published.py; replace OWNER in it."""
    config: JsonDict = json.loads(Path(folder, 'config.json').read_text(encoding='utf-8'))
    fields = {
        'name': f'OWNER/{config["model"]}.{config.get("dataset", "")}',
        'url': f'hf://OWNER/REPOSITORY/{_FILE}',
        'sha256': config['sha256'],
        'licence': config.get('licence', 'apache-2.0' if 'result' in config else ''),
        'model': config['model'],
        'model_kwargs': config['model_kwargs'],
        'dataset': config.get('dataset', ''),
        'image_shape': tuple(config['image_shape']),
        'mean': tuple(config.get('mean', (0.0,))),
        'std': tuple(config.get('std', (1.0,))),
        'crop': config.get('crop', 1.0),
        'interpolation': config.get('interpolation', 'bicubic'),
        'accuracy': round(100 * config['result']['accuracy'], 2) if 'result' in config else None,
    }
    return 'PublishedWeights(\n' + ''.join(f'    {name}={value!r},\n' for name, value in fields.items()) + ')'
