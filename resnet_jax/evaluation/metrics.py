"""Figures computed from a confusion matrix."""

from typing import Any

import numpy as np


def summarize(loss_sum: float, confusion: np.ndarray) -> dict[str, Any]:
    """Returns mean loss, accuracy and count, and the accuracy of each class.

    Args:
      loss_sum: cross entropy summed over the examples, in nats.
      confusion: int `[num_classes, num_classes]`, counts by label (row) and prediction (column).

    Returns:
      'loss' and 'accuracy' (floats), 'count' (int) and 'per_class_accuracy', a list of floats, None for a class without
      examples.
    """
    counts = confusion.sum(axis=1)
    per_class = [
        correct / count if count else None for correct, count in zip(np.diag(confusion).tolist(), counts.tolist(), strict=True)
    ]
    total = int(counts.sum())
    return {
        'loss': float(loss_sum) / total,
        'accuracy': int(np.trace(confusion)) / total,
        'count': total,
        'per_class_accuracy': per_class,
    }
