import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.data import Split, hold_out
from resnet_jax.errors import ConfigError


def _numbered(label):
    """A split whose images say which example they are."""
    label = np.asarray(label, np.int32)
    return Split(np.arange(len(label), dtype=np.uint8).reshape(-1, 1, 1, 1), label)


def test_hold_out_takes_these_examples():
    rest, held = hold_out(_numbered([i % 3 for i in range(12)]), 6, seed=7)
    assert held.image.ravel().tolist() == [0, 1, 2, 3, 10, 11]
    assert rest.image.ravel().tolist() == [4, 5, 6, 7, 8, 9]
    assert held.label.tolist() == [0, 1, 2, 0, 1, 2]


def test_hold_out_at_full_size_is_the_same_everywhere():
    split = Split(np.zeros((50_000, 0), np.uint8), (np.arange(50_000) * 7919 % 10).astype(np.int32))
    index = np.arange(50_000, dtype=np.int32)
    _, held = hold_out(Split(index, split.label), 5_000, seed=0)
    np.testing.assert_array_equal(np.bincount(held.label), np.full(10, 500))
    assert hashlib.sha256(held.image.astype('<i4').tobytes()).hexdigest()[:16] == '01c988b4ad60ba7a'


def test_seeds_differ():
    split = _numbered([0] * 200)
    assert hold_out(split, 50, 0)[1].image.tobytes() != hold_out(split, 50, 1)[1].image.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_hold_out_is_stratified_and_loses_nothing(labels, data):
    size = data.draw(st.integers(1, len(labels) - 1))
    split = _numbered(labels)
    rest, held = hold_out(split, size, data.draw(st.integers(0, 2**64 - 1)))
    assert len(held.label) == size
    assert sorted([*rest.image.ravel(), *held.image.ravel()]) == list(range(len(labels)))
    share = np.bincount(labels, minlength=5) * size / len(labels)
    assert np.all(np.abs(np.bincount(held.label, minlength=5) - share) <= 1)


@pytest.mark.parametrize('size, seed', [(0, 0), (-1, 0), (5, 0), (2, -1), (2, 2**64)])
def test_hold_out_refuses(size, seed):
    with pytest.raises(ConfigError, match='expected'):
        hold_out(_numbered([0, 1, 0, 1, 0]), size, seed)
