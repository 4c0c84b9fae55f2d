"""Errors on corrupted test images: every corruption, every severity, every example."""

from collections.abc import Callable

import numpy as np

from resnet_jax.data import Split
from resnet_jax.data.split import Images
from resnet_jax.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from resnet_jax.typing import JsonDict

_BLOCK = 500  # number of images that are corrupted at once; does not change the result


def evaluate_corruptions(
    answer: Callable[[Images], np.ndarray],
    split: Split,
    progress: Callable[[int, int], None] | None = None,
) -> JsonDict:
    """Evaluates on corrupted images.

    Args:
      answer: function from uint8 images `[n, height, width, channels]` to scores `[n, num_classes]`, such as
        `Classifier.log_probabilities`.
      progress: called with (number of finished pairs of corruption and severity, number of pairs).

    Returns:
      'errors': {name: [error at severity 1, ..., 5]}, as shares of the examples; 'corruption_errors': {name: mean of its
      errors}; 'mean_corruption_error': the mean over names, not divided by the errors of a reference network; 'clean_error';
      'count'.
    """
    count, total = len(split.label), len(CORRUPTIONS) * len(SEVERITIES)
    clean = int((answer(split.image).argmax(axis=1) != split.label).sum()) / count
    errors: dict[str, list[float]] = {}
    for name in CORRUPTIONS:
        errors[name] = []
        for severity in SEVERITIES:
            images = np.concatenate(
                [corrupt(split.image[i : i + _BLOCK], name, severity, first=i) for i in range(0, count, _BLOCK)]
            )
            errors[name].append(int((answer(images).argmax(axis=1) != split.label).sum()) / count)
            if progress:
                progress(sum(map(len, errors.values())), total)
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    return {
        'errors': errors,
        'corruption_errors': means,
        'mean_corruption_error': float(np.mean(list(means.values()))),
        'clean_error': clean,
        'count': count,
    }
