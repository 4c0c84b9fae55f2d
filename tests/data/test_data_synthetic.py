import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.synthetic import SYNTHETIC, load_synthetic


@pytest.mark.parametrize(
    ('name', 'shape', 'sizes', 'classes'),
    [
        ('synthetic_cifar10', (32, 32, 3), (50_000, 10_000), 10),
        ('synthetic_cifar100', (32, 32, 3), (50_000, 10_000), 100),
        ('synthetic_digits', (8, 8, 1), (1437, 360), 10),
    ],
)
def test_it_has_the_shape_of_the_data_set(name, shape, sizes, classes):
    dataset = load_synthetic(name)
    for split, size in zip((dataset.train, dataset.test), sizes, strict=True):
        assert split.image.shape == (size, *shape) and split.image.dtype == np.uint8
        assert set(split.label) == set(range(classes)) and split.label.dtype == np.int32
    assert dataset.num_classes == classes and dataset.name == name


def test_it_is_uniform_the_same_each_time_and_the_splits_differ():
    first, again = load_dataset('synthetic_digits'), load_synthetic('synthetic_digits')
    np.testing.assert_array_equal(first.train.image, again.train.image)
    assert not np.array_equal(first.train.image[:360], first.test.image)
    # The mean of n uniform bytes is normal around 127.5 with a deviation of 73.9 / sqrt(n): 4 of these.
    assert abs(first.train.image.mean() - 127.5) < 4 * 73.9 / np.sqrt(first.train.image.size)
    assert (first.train.image.min(), first.train.image.max()) == (0, 255)
    assert {*SYNTHETIC} == {'synthetic_cifar10', 'synthetic_cifar100', 'synthetic_digits'}
