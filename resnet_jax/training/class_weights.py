"""Weights of the classes in the training loss."""

from collections.abc import Sequence

import jax
import numpy as np

from resnet_jax.errors import ConfigError


def class_weights(weights: str | Sequence[float], labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the weight of each class, float32 `[num_classes]`.

    Args:
      weights: a number for each class, or 'balanced': n / (num_classes * examples of the class), so that all classes have the
        same total weight in an epoch, as in scikit-learn's compute_class_weight.
      labels: int `[n]`: the labels of the training set.

    Raises:
      ConfigError: the weights are 'balanced' and a class has no example.
    """
    if not isinstance(weights, str):
        return np.array(weights, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        missing = int(np.argmin(counts))
        raise ConfigError(
            f"class_weights='balanced' needs an example of every class, and of class {missing} none is left to train on; "
            'expected a larger train_size, other data, or a number for each class'
        )
    return (len(labels) / (num_classes * counts)).astype(np.float32)


def weight_labels(label: jax.Array, weights: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns labels whose mean cross entropy over the global batch is the weighted mean of torch.nn.CrossEntropyLoss.

    The weighted mean is the sum of weight[c] * label[c] * -log p[c] over examples and classes, divided by the sum over the
    examples of the weights of their classes. Examples are mixed after the labels are weighted, so the divisor is still this
    sum; PyTorch would divide the loss of mixed labels by the number of examples.

    Args:
      label: float32 `[batch, num_classes]`: this device's labels; may be smoothed.
      weights: float32 `[num_classes]`.
      classes: int32 `[global batch]`: the classes of all examples of the global batch, which make the mean over devices and
        microbatches right.
    """
    return label * (weights / weights[classes].mean())[None, :]
