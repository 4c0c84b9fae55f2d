"""The accuracy on the test set of answers with about a given confidence."""

import dataclasses
from pathlib import Path

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.errors import InputFileError
from resnet_jax.evaluation.predictions import FILE, Predictions, load_predictions
from resnet_jax.runs.reader import read_run

MOST_BINS, LEAST_COUNT = 15, 50


@dataclasses.dataclass(frozen=True)
class Measured:
    """The `accuracy` of `count` answers to test images, with a confidence from `low` to `high`."""

    low: float
    high: float
    count: int
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Confidence:
    """Accuracy by confidence, in bins of equal counts, ascending.

    The report has equal intervals instead. Most answers of a network fall into the last interval, where 94 % and 99.9 % would
    get the same accuracy. Equal counts are from Nguyen and O'Connor, arXiv:1508.05154, section 3.
    """

    bins: tuple[Measured, ...]

    def of(self, confidence: float) -> Measured:
        """Returns the bin that is nearest to a confidence."""
        return min(self.bins, key=lambda each: max(each.low - confidence, confidence - each.high, 0.0))


def measure(predictions: Predictions) -> Confidence | None:
    """Returns the accuracy by confidence; None for fewer than LEAST_COUNT examples, because they would say little."""
    confidence = np.minimum(np.exp(predictions.log_probabilities.max(axis=1).astype(np.float64)), 1.0)
    order = np.argsort(confidence, kind='stable')
    number = min(MOST_BINS, len(order) // LEAST_COUNT)
    bins: list[Measured] = []
    for part in np.array_split(order, number) if number else []:
        current = Measured(confidence[part[0]], confidence[part[-1]], len(part), float(predictions.correct[part].mean()))
        while bins and bins[-1].high == current.low == current.high:  # many answers with one confidence
            last = bins.pop()
            count = last.count + current.count
            current = Measured(
                last.low, current.high, count, (last.count * last.accuracy + current.count * current.accuracy) / count
            )
        bins.append(current)
    return Confidence(tuple(bins)) if bins else None


def of_run(classifier: Classifier) -> Confidence | None:
    """Returns the accuracy by confidence of a finished run's network; None if the run has no predictions of this network.

    The predictions in a run folder are from its last result, without averaged parameters. With test-time augmentation the
    probabilities differ from the probabilities of a single view.

    Raises:
      InputFileError: the predictions are damaged.
    """
    origin = classifier.origin
    if origin.config is None or origin.ema or not Path(origin.path, FILE).exists():
        return None
    predictions, result = load_predictions(origin.path), read_run(origin.path).result
    same = result.get('step') == origin.step and predictions.fingerprint == origin.fingerprint
    if not same or predictions.tta != 'none':
        return None
    if predictions.log_probabilities.shape[1] != len(classifier.class_names):
        raise InputFileError(f'{origin.path}/{FILE} is of another number of classes; evaluate the run again')
    return measure(predictions)
