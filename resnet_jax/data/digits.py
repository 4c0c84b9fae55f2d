"""The handwritten digits that scikit-learn bundles: 1,797 images of 8x8, no download. For the quickstart and for tests.

Source: UCI "Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits`.
"""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from resnet_jax.data.split import Dataset, DatasetInfo, Split, hold_out
from resnet_jax.errors import ConfigError

NUM_TEST = 360
DIGITS = DatasetInfo(
    name='digits',
    image_shape=(8, 8, 1),
    num_classes=10,
    num_train=1437,
    num_test=NUM_TEST,
    mean=(0.3052902458826259,),
    std=(0.3759864070187056,),
)


def load_digits() -> Dataset:
    """Loads the digits: 1,437 training and 360 test images, uint8 [n, 8, 8, 1]; needs no files and no internet.

    The pixel values 0..16 become 0..255 (times 255/16, rounded). A fifth of each class, chosen by `hold_out` with
    seed 0, is the test split. Mean and standard deviation are computed from the training split.

    Raises:
      ConfigError: scikit-learn is not installed.
    """
    image, label = _read()
    train, test = hold_out(Split(image, label), NUM_TEST, seed=0)
    return Dataset(
        name='digits',
        train=train,
        test=test,
        class_names=tuple(str(digit) for digit in range(10)),
        mean=DIGITS.mean,
        std=DIGITS.std,
        fingerprint=hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest(),
    )


def _read() -> tuple[np.ndarray, np.ndarray]:
    # Reads the file of scikit-learn's `load_digits` directly: importing scikit-learn takes two seconds.
    spec = importlib.util.find_spec('sklearn')
    file = Path(spec.origin or '').parent / 'datasets' / 'data' / 'digits.csv.gz' if spec else None
    if file and file.is_file():
        rows = gzip.decompress(file.read_bytes()).decode().split()
        table = np.array([list(map(int, row.split(','))) for row in rows], np.uint8)
        pixels, label = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    else:
        try:
            from sklearn.datasets import load_digits as load_bunch
        except ImportError:
            raise ConfigError(
                "data set 'digits' needs scikit-learn, which is not installed: expected `import sklearn` to work; "
                "run pip install 'resnet_jax[quickstart]'"
            ) from None
        bunch = load_bunch()
        pixels, label = bunch.images, bunch.target
    return np.rint(pixels * (255 / 16)).astype(np.uint8)[..., None], label.astype(np.int32)
