"""A network's predictions for every test example, stored in the run folder to compare runs."""

import dataclasses
from pathlib import Path

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.metrics import describe
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.npz import read_npz
from resnet_jax.typing import JsonDict

FILE = 'predictions.npz'


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for a split, in the split's order.

    Attributes:
      log_probabilities: float32 `[n, num_classes]`.
      labels: int32 `[n]`.
      fingerprint: fingerprint of the data set.
      tta: the test-time augmentation over which the logits were averaged.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    fingerprint: str
    tta: str = 'none'

    @property
    def correct(self) -> np.ndarray:
        """Bool `[n]`: whether the most probable class is the label."""
        correct: np.ndarray = self.log_probabilities.argmax(axis=1) == self.labels
        return correct

    def describe(self) -> JsonDict:
        """Returns `metrics.describe` and 'tta'."""
        return {**describe(self.log_probabilities, self.labels), 'tta': self.tta}

    def save(self, folder: str | Path) -> Path:
        """Writes predictions.npz into a folder, atomically."""
        arrays: JsonDict = {
            'log_probabilities': self.log_probabilities,
            'labels': self.labels,
            'fingerprint': np.array(self.fingerprint),
            'tta': np.array(self.tta),
        }
        return write_atomically(Path(folder) / FILE, lambda file: np.savez(file, **arrays))


def load_predictions(folder: str | Path) -> Predictions:
    """Reads a file that `Predictions.save` wrote, without executing anything in it.

    Raises:
      InputFileError: the file does not exist or is not valid.
    """
    path = Path(folder) / FILE
    try:
        file = read_npz(path)
        predictions = Predictions(file['log_probabilities'], file['labels'], str(file['fingerprint']), str(file['tta']))
    except FileNotFoundError:
        raise InputFileError(f'{path} is not there; evaluate the run first') from None
    except (OSError, ValueError, KeyError) as error:
        raise InputFileError(f'{path} cannot be read ({error}); evaluate the run again') from None
    answers, labels = predictions.log_probabilities, predictions.labels
    fits = answers.ndim == 2 and labels.shape == answers.shape[:1] and answers.dtype.kind == 'f' and labels.dtype.kind == 'i'
    if not fits or not len(labels) or not np.isfinite(answers).all() or labels.min() < 0 or labels.max() >= answers.shape[1]:
        raise InputFileError(f'{path} holds no predictions; evaluate the run again')
    return predictions


def predict_split(classifier: Classifier, dataset: Dataset, batch_size: int) -> Predictions:
    """Returns a classifier's predictions for a data set's test split."""
    answers = classifier.log_probabilities(dataset.test.image, batch_size)
    return Predictions(answers, dataset.test.label, dataset.fingerprint, classifier.tta)


def check_same_examples(predictions: Predictions, dataset: Dataset) -> None:
    """Checks that predictions are for the examples of a data set's test split.

    Raises:
      ConfigError: the predictions are for other examples.
    """
    if predictions.fingerprint != dataset.fingerprint or not np.array_equal(predictions.labels, dataset.test.label):
        raise ConfigError('the two runs were tested on other images; expected the same test set to compare them on')
