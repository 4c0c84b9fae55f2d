"""Every model by name, as small as it can be with all of its parts."""

import pytest

from resnet_jax import create_model
from resnet_jax.models import ResNet, SpeedrunNet, available_models

# The fast tests take one, the slow ones every name.
CASES = [pytest.param(name, marks=() if name == 'preact_resnet18' else pytest.mark.slow) for name in available_models()]


def small_kwargs(name):
    """Returns keyword arguments for `create_model`, with 3 classes."""
    kwargs = {'num_classes': 3}
    model = create_model(name)
    if isinstance(model, ResNet):
        kwargs |= {'stage_sizes': (1, 1), 'num_filters': 16}
    if isinstance(model, SpeedrunNet):
        kwargs |= {'widths': (24, 32)}
    return kwargs


def image_size(name):
    """Returns the side of images that the small network takes."""
    return 64 if name == 'alexnet_imagenet' else 32 if name.startswith(('lenet', 'alexnet')) else 16
