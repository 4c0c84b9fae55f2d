"""The handwritten digits that scikit-learn bundles: 1,797 images of 8x8, no download. For the quickstart and for tests.

Source: UCI "Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits`.
"""

import hashlib

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
    seed 0, is the test split. The mean and standard deviation are those of the training split.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_bunch
    except ImportError:
        raise ConfigError(
            "data set 'digits' needs scikit-learn, which is not installed: expected `import sklearn` to work; "
            "run pip install 'resnet_jax[quickstart]'"
        ) from None
    bunch = load_bunch()
    image = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    label = bunch.target.astype(np.int32)
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
