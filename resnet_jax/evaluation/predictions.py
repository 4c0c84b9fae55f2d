"""A network's answer to every example of a test set, kept in the run folder for whoever compares runs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from resnet_jax.data.augment import normalize, tta_logits
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.metrics import describe
from resnet_jax.ops import kernels
from resnet_jax.runs.npz import read_npz

FILE = 'predictions.npz'


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Answers to a split, in its order.

    Attributes:
      log_probabilities: float32 `[n, num_classes]`.
      labels: int32 `[n]`.
      fingerprint: the data set's.
      tta: what the logits were averaged over.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    fingerprint: str
    tta: str = 'none'

    @property
    def correct(self) -> np.ndarray:
        """Bool `[n]`: whether the most probable class is the label."""
        return self.log_probabilities.argmax(axis=1) == self.labels

    def describe(self) -> dict[str, Any]:
        """See `metrics.describe`; and 'tta'."""
        return {**describe(self.log_probabilities, self.labels), 'tta': self.tta}

    def save(self, folder: str | Path) -> Path:
        """Writes predictions.npz into a folder, in whole or not at all."""
        path = Path(folder) / FILE
        partial = path.with_name(f'.{FILE}.partial')
        with partial.open('wb') as file:
            np.savez(
                file,
                log_probabilities=self.log_probabilities,
                labels=self.labels,
                fingerprint=np.array(self.fingerprint),
                tta=np.array(self.tta),
            )
        return partial.replace(path)


def load_predictions(folder: str | Path) -> Predictions:
    """Reads what `Predictions.save` wrote; nothing in the file is run.

    Raises:
      InputFileError: it is not there, or is not such a file.
    """
    path = Path(folder) / FILE
    try:
        file = read_npz(path)
        views = str(file['tta']) if 'tta' in file else 'none'  # an older file
        found = Predictions(file['log_probabilities'], file['labels'], str(file['fingerprint']), views)
    except FileNotFoundError:
        raise InputFileError(f'{path} is not there; write it with: python bin/evaluate.py --workdir={folder}') from None
    except (OSError, ValueError, KeyError) as error:
        raise InputFileError(f'{path} cannot be read ({error}); write it again with bin/evaluate.py --workdir') from None
    answers, labels = found.log_probabilities, found.labels
    fits = answers.ndim == 2 and labels.shape == answers.shape[:1] and answers.dtype.kind == 'f' and labels.dtype.kind == 'i'
    if not fits or not len(labels) or not np.isfinite(answers).all() or labels.min() < 0 or labels.max() >= answers.shape[1]:
        raise InputFileError(f'{path} holds no predictions; write it again with bin/evaluate.py --workdir')
    return found


def predictor(
    model: nn.Module,
    variables: Any,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any,
    batch_size: int,
    tta: str = 'none',
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from uint8 images `[n, height, width, channels]` to float32 log-probabilities `[n, num_classes]`.

    The logits are averaged over `tta`, see `tta_logits`. It compiles once: every batch has the size of the first
    call's, the last one is padded. One device computes it.
    """

    @jax.jit
    @kernels.enabled()
    def batch_answers(variables, images):
        images = normalize(images, mean, std, dtype)
        logits = tta_logits(functools.partial(model.apply, variables, train=False), images, tta)
        return jax.nn.log_softmax(logits)

    variables = jax.device_put(jax.device_get(variables), jax.local_devices()[0])  # off the other devices
    size = 0

    def answer(images: np.ndarray) -> np.ndarray:
        nonlocal size
        size = size or min(batch_size, len(images))
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
            parts.append(np.asarray(batch_answers(variables, padded))[: len(batch)])
        return np.concatenate(parts)

    return answer


def check_same_examples(first: Predictions, second: Predictions) -> None:
    """Checks that two runs answered the same test set.

    Raises:
      ConfigError: they did not.
    """
    if first.fingerprint != second.fingerprint or not np.array_equal(first.labels, second.labels):
        raise ConfigError('the two runs were tested on other images; expected the same test set to compare them on')
