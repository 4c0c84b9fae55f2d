"""A network as a config describes it."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.models import create_model
from resnet_jax.runtime.devices import AXIS


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Temporary."""

    model: nn.Module
    variables: Any
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: Any
    std: Any
    dtype: Any
    tta: str

    @classmethod
    def load(cls, path):
        return None


def build_model(config: TrainConfig, num_classes: int, prefix: str = '') -> nn.Module:
    """Returns the config's network; with the prefix 'proxy_' its proxy.

    Raises:
      ConfigError: see `create_model`; or `model_kwargs` holds what another field says.
    """
    name, kwargs = (config.proxy_model, config.proxy_model_kwargs) if prefix else (config.model, config.model_kwargs)
    elsewhere = {'name': f'{prefix}model', 'num_classes': 'dataset', 'dtype': 'dtype', 'axis_name': 'cross_device_batch_norm'}
    for field in kwargs:
        if field in elsewhere:
            raise ConfigError(f'{prefix}model_kwargs has {field}; remove it, expected it from config.{elsewhere[field]} alone')
    model = create_model(name, num_classes=num_classes, dtype=jnp.dtype(config.dtype), **kwargs)
    if not config.cross_device_batch_norm:
        return model
    if getattr(model, 'norm', 'batch') == 'none' or not hasattr(model, 'axis_name'):
        raise ConfigError(f'{name} has no BatchNorm; expected cross_device_batch_norm=False')
    return model.clone(axis_name=AXIS)
