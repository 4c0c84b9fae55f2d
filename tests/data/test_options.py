"""`LoadOptions` has the defaults of the config, and takes the values that a config takes."""

import re
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.config import TrainConfig
from resnet_jax.data import load_dataset
from resnet_jax.data.options import DEFAULTS, LoadOptions
from resnet_jax.errors import ConfigError


def test_defaults_are_those_of_the_config():
    assert LoadOptions.of(TrainConfig()) == DEFAULTS


@pytest.mark.parametrize(
    'option',
    [
        {'resize': 'sqash'},
        {'broken_images': 'ignore'},
        {'decode': 'sometimes'},
        {'test_fraction': 7},
        {'test_fraction': 0},
        {'test_fraction': -1},
        {'test_fraction': float('nan')},
        {'image_size': -3},
        {'image_size': 1.5},
        {'image_size': '32'},
        {'follow_links': 1},
        {'test_crop': 2},
        {'data_dir': 3},
        {'normalization': 5},
    ],
)
@pytest.mark.parametrize('source', ['folder:nowhere', 'digits', np.zeros((4, 2, 2), np.uint8)], ids=str)
def test_a_value_that_no_config_takes_is_refused_with_the_line_of_the_config(option, source):
    with pytest.raises(ConfigError) as line:
        TrainConfig(**option)
    with pytest.raises(ConfigError, match=f'^{re.escape(str(line.value))}$'):
        load_dataset(source, None if isinstance(source, str) else [0, 1, 0, 1], **option)


def test_the_size_of_images_of_many_sizes_is_checked_too():
    for size in (0, -3, '64', 5000):
        with pytest.raises(ConfigError, match=r'default_size is .*; expected an integer of at least 1 and at most 4096'):
            LoadOptions(default_size=size)


def test_numbers_of_numpy_paths_and_none_for_empty_are_taken():
    options = LoadOptions(data_dir=Path('data'), image_size=np.int64(32), test_fraction=np.float32(0.5))
    assert options == LoadOptions(data_dir=Path('data'), image_size=32, test_fraction=0.5)
    assert LoadOptions(data_dir=None, data_archive=None, normalization=None) == DEFAULTS
    assert type(options.image_size) is int and isinstance(options.data_dir, Path)
