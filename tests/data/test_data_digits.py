import importlib.util
import sys

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.errors import ConfigError


def test_digits():
    digits = load_dataset('digits')
    assert digits.train.image.shape == (1437, 8, 8, 1) and digits.test.image.shape == (360, 8, 8, 1)
    assert digits.train.image.dtype == np.uint8 and digits.train.label.dtype == np.int32
    assert digits.image_shape == (8, 8, 1) and digits.num_classes == 10
    assert digits.train.image.min() == 0 and digits.train.image.max() == 255
    assert np.bincount(digits.test.label).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    np.testing.assert_allclose(digits.mean, (digits.train.image / 255).mean())
    np.testing.assert_allclose(digits.std, (digits.train.image / 255).std())
    again = load_dataset('digits')
    assert again.fingerprint == digits.fingerprint
    np.testing.assert_array_equal(again.test.image, digits.test.image)


def test_the_splits_share_no_image_and_lose_none():
    from sklearn.datasets import load_digits

    digits = load_dataset('digits')
    both = [row.tobytes() for split in (digits.train, digits.test) for row in split.image]
    original = [np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images]
    assert sorted(both) == sorted(original) and len(set(both)) == 1797


def test_scikit_learn_reads_the_same_where_its_file_is_elsewhere(monkeypatch):
    digits = load_dataset('digits')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert load_dataset('digits').fingerprint == digits.fingerprint


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ConfigError, match=r"pip install 'resnet_jax\[quickstart\]'"):
        load_dataset('digits')
