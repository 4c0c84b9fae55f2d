"""The defaults of `LoadOptions` are those of the config."""

from resnet_jax.config import TrainConfig
from resnet_jax.data.options import DEFAULTS, LoadOptions


def test_defaults_are_those_of_the_config():
    assert LoadOptions.of(TrainConfig()) == DEFAULTS
