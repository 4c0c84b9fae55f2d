"""Residual networks for JAX: models, training and evaluation on small images.

Importing the package does not import JAX; each name below is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = '0.2.0'

if TYPE_CHECKING:
    from resnet_jax.classifier import Classifier
    from resnet_jax.config import TrainConfig, default_config
    from resnet_jax.data import load_dataset, register_dataset
    from resnet_jax.models import available_models, features, register_model
    from resnet_jax.training.api import Callback
    from resnet_jax.training.loop import finetune, train_and_evaluate
    from resnet_jax.training.optimizer import register_optimizer
    from resnet_jax.weights.pretrained import create_model
    from resnet_jax.weights.published import available_weights

    load = Classifier.load

__all__ = [
    'Callback',
    'Classifier',
    'TrainConfig',
    'available_models',
    'available_weights',
    'create_model',
    'default_config',
    'features',
    'finetune',
    'load',
    'load_dataset',
    'register_dataset',
    'register_model',
    'register_optimizer',
    'train_and_evaluate',
]

_MODULES = {
    'Callback': 'training.api',
    'Classifier': 'classifier',
    'TrainConfig': 'config',
    'available_models': 'models',
    'available_weights': 'weights.published',
    'create_model': 'weights.pretrained',
    'default_config': 'config',
    'features': 'models',
    'finetune': 'training.loop',
    'load_dataset': 'data',
    'register_dataset': 'data',
    'register_model': 'models',
    'register_optimizer': 'training.optimizer',
    'train_and_evaluate': 'training.loop',
}


def __getattr__(name: str) -> object:
    if name == 'load':
        return importlib.import_module('resnet_jax.classifier').Classifier.load
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'resnet_jax.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
