"""Metrics computed from a confusion matrix, or from the probabilities of every example, with NumPy only."""

import numpy as np

from resnet_jax.errors import InputFileError
from resnet_jax.typing import JsonDict

CALIBRATION_BINS = 15


def summarize(loss_sum: float, confusion: np.ndarray) -> JsonDict:
    """Returns the mean loss, accuracy and count, and the accuracy and count of each class.

    Args:
      loss_sum: cross entropy summed over the examples, in nats.
      confusion: int `[num_classes, num_classes]`, counts by label (row) and prediction (column).

    Returns:
      'loss' and 'accuracy' (floats); 'balanced_accuracy', the mean of the accuracies of the classes that have examples;
      'count' (int); 'per_class_accuracy', a list of floats, with None for a class without examples; and 'per_class_count'.
    """
    counts = confusion.sum(axis=1)
    total = int(counts.sum())
    shares = _shares(np.diag(confusion), counts)
    known = [share for share in shares if share is not None]
    return {
        'loss': float(loss_sum) / total,
        'accuracy': int(np.trace(confusion)) / total,
        'balanced_accuracy': sum(known) / len(known),
        'count': total,
        'per_class_accuracy': shares,
        'per_class_count': counts.tolist(),
    }


def describe(log_probabilities: np.ndarray, labels: np.ndarray) -> JsonDict:
    """Returns all metrics of a network's predictions for a test set; each example counts once.

    Args:
      log_probabilities: float `[n, num_classes]`, natural logarithms.
      labels: int `[n]`.

    Returns:
      The entries of `summarize` ('loss' is the negative log-likelihood, in nats), 'top5_accuracy' (None for 5 classes or
      fewer), 'per_class_precision', 'calibration' (see `calibration`), and 'confusion', int `[num_classes, num_classes]`.

    Raises:
      InputFileError: a log probability is NaN.
    """
    n, classes = log_probabilities.shape
    if np.isnan(log_probabilities).any():
        raise InputFileError('the network answers with what is not a number; expected weights that are finite: train it again')
    values, rows = log_probabilities.astype(np.float64), np.arange(n)
    right = values[rows, labels][:, None]
    # Of equally probable classes, the first one comes first, as in argmax.
    place = ((values > right) | ((values == right) & (np.arange(classes) < labels[:, None]))).sum(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, values.argmax(axis=1)), 1)
    return {
        **summarize(-values[rows, labels].sum(), confusion),
        'top5_accuracy': int((place < 5).sum()) / n if classes > 5 else None,
        'per_class_precision': _shares(np.diag(confusion), confusion.sum(axis=0)),
        'calibration': calibration(values, labels),
        'confusion': confusion,
    }


def calibration(log_probabilities: np.ndarray, labels: np.ndarray) -> JsonDict:
    """Compares confidence with accuracy: Guo et al., arXiv:1706.04599, section 2.

    The confidence of a prediction is its probability. Predictions are grouped into `CALIBRATION_BINS` equal intervals
    ((m - 1) / bins, m / bins]; in each, the mean confidence is compared with the accuracy.

    Returns:
      'ece': expected calibration error, the mean gap weighted by the number of predictions in each bin (equation 3); 'mce': the
      largest gap (equation 5); 'confidence': the mean over all predictions; 'bins': for each bin, 'low', 'high', 'count',
      'confidence' and 'accuracy'; the last two are None for an empty bin.
    """
    bins = CALIBRATION_BINS
    confidence = np.minimum(np.exp(log_probabilities.max(axis=1)), 1.0)
    right = log_probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    means = _shares(np.bincount(index, confidence, bins), counts)
    accuracies = _shares(np.bincount(index, right, bins), counts)
    gaps = [0.0 if a is None or m is None else abs(a - m) for a, m in zip(accuracies, means, strict=True)]
    return {
        'ece': float(np.dot(counts, gaps) / len(labels)),
        'mce': max(gaps),
        'confidence': float(confidence.mean()),
        'bins': [
            {
                'low': m / bins,
                'high': (m + 1) / bins,
                'count': int(counts[m]),
                'confidence': means[m],
                'accuracy': accuracies[m],
            }
            for m in range(bins)
        ],
    }


def _shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [a / b if b else None for a, b in zip(part.tolist(), whole.tolist(), strict=True)]
