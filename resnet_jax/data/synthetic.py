"""Random images and labels of a data set's shape: to measure speed where there are no data, never to learn from."""

import numpy as np

from resnet_jax.data.sources import IMAGE_SHAPE, SOURCES
from resnet_jax.data.split import Dataset, Split

PREFIX = 'synthetic_'

# Image shape, training images, test images, classes, mean and std.
_SHAPES = {
    **{
        name: (IMAGE_SHAPE, source.num_train, source.num_test, source.num_classes, source.mean, source.std)
        for name, source in SOURCES.items()
    },
    'digits': ((8, 8, 1), 1437, 360, 10, (0.5,), (0.25,)),
}
SYNTHETIC = tuple(PREFIX + name for name in _SHAPES)


def load_synthetic(name: str) -> Dataset:
    """Makes as many uint8 images and int32 labels, uniform and the same each time, as the data set in the name has.

    Args:
        name: one of `SYNTHETIC`, such as 'synthetic_cifar10'.
    """
    shape, num_train, num_test, num_classes, mean, std = _SHAPES[name.removeprefix(PREFIX)]

    def split(examples: int, seed: int) -> Split:
        raw = np.random.Philox(seed).random_raw(-(-examples * int(np.prod(shape)) // 8))
        image = raw.view(np.uint8)[: examples * int(np.prod(shape))].reshape(examples, *shape)
        return Split(image, (np.arange(examples) % num_classes).astype(np.int32))

    names = tuple(str(i) for i in range(num_classes))
    return Dataset(name, split(num_train, 0), split(num_test, 1), names, mean, std, fingerprint=name)
