"""A data set, a config and networks so small that a run takes a second."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import resnet_jax.data
from resnet_jax import models
from resnet_jax.config import TrainConfig, default_config
from resnet_jax.data import Dataset, Split


class Linear(nn.Module):
    """One linear layer; no BatchNorm, no dropout."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes, name='fc')(images.reshape(len(images), -1))


class WithBatchNorm(nn.Module):
    """A linear layer behind a BatchNorm whose new statistics count half, and dropout."""

    num_classes: int = 3
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.BatchNorm(not train, momentum=0.5, name='bn')(images.reshape(len(images), -1))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name='fc')(x)


def split(examples, seed, size=8, channels=1, classes=3):
    """Each class has a bright stripe of its own, under noise: a network learns it, but not in one epoch."""
    rng = np.random.default_rng(seed)
    label = (np.arange(examples) % classes).astype(np.int32)
    image = rng.integers(0, 160, (examples, size, size, channels), np.uint8)
    for one, place in zip(image, label, strict=True):
        one[2 * place : 2 * place + 2] += 60
    return Split(image, label)


def dataset(train=50, test=19, size=8, channels=1):
    return Dataset(
        name='stripes',
        train=split(train, 1, size, channels),
        test=split(test, 2, size, channels),
        class_names=('top', 'middle', 'bottom'),
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
        fingerprint=f'stripes {train} {test}',
    )


def register(patch, data):
    """Gives a data set to configs as 'stripes', and `WithBatchNorm` as the model 'tiny', until `patch` is undone."""
    patch.setitem(resnet_jax.data._DATASETS, 'stripes', resnet_jax.data._Entry(lambda options: data, data.info))
    patch.setitem(models._MODELS, 'tiny', functools.partial(WithBatchNorm, dropout=0.1))


def config(**overrides):
    """The default recipe, four epochs of three steps, on a ResNet with one block."""
    result = default_config()
    changes = {
        'dataset': 'stripes',
        'model': 'resnet8',
        'model_kwargs': {'stage_sizes': (1,), 'num_filters': 4},
        'num_epochs': 4,
        'batch_size': 16,
        'base_batch_size': 0,
        'learning_rate': 0.05,
        'warmup_epochs': 1.0,
        'crop_padding': 1,
        'eval_batch_size': 8,
        'log_every': 2,
    }
    with result.unlocked():
        for name, value in {**changes, **overrides}.items():
            result[name] = value
    return result


def checked(**overrides):
    """The same, checked."""
    return TrainConfig.from_mapping(config(**overrides))
