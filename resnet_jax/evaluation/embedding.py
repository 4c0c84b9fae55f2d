"""A map of images: the features of a network in two dimensions."""

import numpy as np


def principal_components(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the first two principal components of features, and their share of the variance.

    Args:
      features: float `[n, d]`.

    Returns:
      float32 `[n, 2]`, where the value of each component with the largest magnitude is positive; and the share, from 0 to 1.
    """
    import scipy.linalg  # imported here, because the import is slow and training does not need it

    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    n, d = centred.shape
    # Uses the smaller of the two Gram matrices; their nonzero eigenvalues are equal.
    gram = centred.T @ centred if d <= n else centred @ centred.T
    first, total = max(len(gram) - 2, 0), float(np.trace(gram))
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=(first, len(gram) - 1))
    scores = (centred @ vectors if d <= n else vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1]
    scores = np.pad(scores, [(0, 0), (0, 2 - scores.shape[1])])
    largest = np.take_along_axis(scores, np.abs(scores).argmax(axis=0)[None], axis=0)
    return np.asarray(scores * np.where(largest < 0, -1, 1), np.float32), float(values.sum()) / total if total > 0 else 1.0
