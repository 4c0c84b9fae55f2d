"""Random images and labels with a data set's shape, to measure speed without the data; networks cannot learn from them."""

import dataclasses
import math

import numpy as np

from resnet_jax.data.digits import DIGITS
from resnet_jax.data.sources import SOURCES
from resnet_jax.data.split import Dataset, Split

PREFIX = 'synthetic_'

_INFOS = (*(source.info for source in SOURCES.values()), dataclasses.replace(DIGITS, mean=(0.5,), std=(0.25,)))
SYNTHETIC = {PREFIX + info.name: dataclasses.replace(info, name=PREFIX + info.name) for info in _INFOS}


def load_synthetic(name: str) -> Dataset:
    """Returns uniform uint8 images and int32 labels, as many as in the named data set; equal in every call.

    Args:
      name: one of `SYNTHETIC`, such as 'synthetic_cifar10'.
    """
    info = SYNTHETIC[name]

    def split(examples: int, seed: int) -> Split:
        size = examples * math.prod(info.image_shape)
        raw = np.random.Philox(seed).random_raw(-(-size // 8))
        image = raw.view(np.uint8)[:size].reshape(examples, *info.image_shape)
        return Split(image, (np.arange(examples) % info.num_classes).astype(np.int32))

    names = tuple(str(i) for i in range(info.num_classes))
    return Dataset(name, split(info.num_train, 0), split(info.num_test, 1), names, info.mean, info.std, fingerprint=name)
