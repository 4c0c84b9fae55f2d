"""Compares the outputs of an exported file with the network's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ExportError

BATCH_SIZES = (1, 23)
# The tolerance is mostly relative, so that small probabilities of a confident network count too. Rounding moves a logit of 20
# by about 1e-5, and so its probability by this relative amount; a missing row of padding moves it by more than the tolerance.
RELATIVE, ABSOLUTE = 1e-3, 1e-7


def sample_images(image_shape: Sequence[int]) -> list[np.ndarray]:
    """Returns uint8 batches `[n, *image_shape]` for each n in BATCH_SIZES: noise, smooth images like photographs, and flat."""
    rng = np.random.default_rng(0)
    count = sum(BATCH_SIZES)
    height, width, channels = image_shape
    images = rng.integers(0, 256, (count, height, width, channels), np.uint8)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    for i in range(0, count, 2):  # a few low frequencies in each channel
        wave = np.zeros((height, width, channels))
        for _ in range(3):
            fy, fx = rng.uniform(-2, 2, (2, channels))
            wave += rng.uniform(20, 60) * np.sin(2 * np.pi * (fy * y + fx * x + rng.uniform(size=channels)))
        images[i] = np.clip(wave + 128, 0, 255).astype(np.uint8)
    images[-1], images[-2] = 0, 255
    return np.split(images, np.cumsum(BATCH_SIZES)[:-1])


def check(classifier: Classifier, path: Path, reload: Callable[[Path, list[np.ndarray]], list[np.ndarray]]) -> float:
    """Reloads a file and compares its outputs with the network's; returns the largest absolute difference.

    On a CPU the network uses the C kernels, which round differently than the file's operations: by up to 17 % of the tolerance
    for ResNet-18 and logits with a range of 20.

    Raises:
      ExportError: the outputs differ by more than rounding, or in shape or dtype. The file is removed.
    """
    batches = sample_images(classifier.image_shape)
    try:
        answers = reload(path, batches)
        probabilities = jax.jit(classifier.probabilities_fn)
        wanted = [np.asarray(probabilities(classifier.variables, batch)) for batch in batches]
        for answer, want in zip(answers, wanted, strict=True):
            if answer.shape != want.shape or answer.dtype != want.dtype:
                raise ExportError(f'{path.name} returns {answer.dtype}{answer.shape}, not {want.dtype}{want.shape}')
        difference = max(float(np.abs(a - w).max()) for a, w in zip(answers, wanted, strict=True))
        if not all(np.allclose(a, w, RELATIVE, ABSOLUTE) for a, w in zip(answers, wanted, strict=True)):
            raise ExportError(
                f'{path.name} differs from the network by up to {difference:.2g} in a probability, more than rounding; '
                'not exported. Please report it with the versions of jax and of the converter'
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return difference
