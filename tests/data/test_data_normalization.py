import pytest

from resnet_jax.data.normalization import NORMALIZATIONS, find_normalization
from resnet_jax.errors import ConfigError


def test_each_has_a_mean_and_a_positive_deviation_for_each_channel():
    for name in NORMALIZATIONS:
        mean, std = find_normalization(name)
        assert len(mean) == len(std) in (1, 3) and all(0 <= m < 1 for m in mean) and all(0 < s <= 1 for s in std)


def test_an_unknown_one_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown normalization 'imagnet'; did you mean 'imagenet'"):
        find_normalization('imagnet')
