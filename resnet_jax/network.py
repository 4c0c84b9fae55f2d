"""The network of a config or of a run folder: its module and its parameters."""

import functools
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax import plugins
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.models import create_model
from resnet_jax.runs import checkpoint
from resnet_jax.runs.checksums import verify
from resnet_jax.runs.metadata import Metadata, read_metadata
from resnet_jax.runtime.devices import AXIS
from resnet_jax.runtime.jax_settings import our_settings
from resnet_jax.typing import JsonDict, Variables

LARGEST_FOR_CIFAR_STEM = 64  # height or width in pixels


def model_kwargs(config: TrainConfig, image_shape: Sequence[int], prefix: str = '') -> JsonDict:
    """Returns the keyword arguments of the config's network, or of its proxy if `prefix` is 'proxy_'.

    If images are larger than 64 pixels and the config names no stem, the CIFAR stem is replaced by the ImageNet stem, except if
    the network starts from weights, which determine the stem.
    """
    name, kwargs = (config.proxy_model, config.proxy_model_kwargs) if prefix else (config.model, config.model_kwargs)
    large = max(image_shape[:2]) > LARGEST_FOR_CIFAR_STEM and 'stem' not in kwargs and not config.init_from
    if large and getattr(create_model(name, num_classes=2), 'stem', '') == 'cifar':
        return {**kwargs, 'stem': 'imagenet'}
    return dict(kwargs)


def build_model(config: TrainConfig, num_classes: int, image_shape: Sequence[int], prefix: str = '') -> nn.Module:
    """Returns the config's network, or its proxy if `prefix` is 'proxy_', for images `(height, width, channels)`.

    Raises:
      ConfigError: see `create_model`; or `model_kwargs` has an argument that another field sets, or cross_device_batch_norm is
        set for a network without BatchNorm.
    """
    name = config.proxy_model if prefix else config.model
    kwargs = model_kwargs(config, image_shape, prefix)
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


@our_settings()
def restore_network(workdir: str | Path, *, ema: bool = False) -> tuple[Metadata, int, nn.Module, Variables]:
    """Restores the network of a run folder from the last checkpoint or, if the run held out a validation split, the best one.

    Args:
      ema: restore the averaged parameters.

    Returns:
      The metadata of the last checkpoint, the step of the network, the network and its {'params', 'batch_stats'}.

    Raises:
      InputFileError: there is no run, it has no checkpoint, or the checkpoint is damaged.
      MissingModulesError: the module that registers the run's model is not imported.
      ConfigError: the run has no averaged parameters.
    """
    folder = Path(workdir, 'checkpoints')
    if not folder.is_dir() and not Path(workdir, 'config.json').is_file():
        raise InputFileError(f'no run in {workdir}: expected a run folder, as training makes it')
    path = checkpoint.latest(folder, rename=False)
    if path is None:
        raise InputFileError(f'the run in {workdir} has no checkpoint; wait for the first, or restore {folder}')
    metadata = read_metadata(path)
    if metadata.progress.best:
        path = folder / str(metadata.progress.best.step)
        try:
            verify(path)
        except InputFileError as error:
            raise InputFileError(
                f'{error}; it is the best on validation: to use the best of the others, delete result.json and train again'
            ) from None
    config, dataset = metadata.config, metadata.dataset
    if ema and not config.ema_decay:
        raise ConfigError(f'the run in {workdir} has no averaged parameters; expected a run with an ema_decay, or ema=False')
    try:
        model = build_model(config, len(dataset['class_names']), dataset['image_shape'])
        blocks, leaves = sum(getattr(model, 'stage_sizes', ())), checkpoint.count_leaves(path)
        if blocks > leaves:  # building that many blocks would take forever
            raise InputFileError(
                f'checkpoint {path} has {leaves} arrays, too few for the {blocks} blocks of its config; use another'
            )
        image = jax.ShapeDtypeStruct((1, *dataset['image_shape']), jnp.float32)
        shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    except ConfigError as error:
        plugins.check_imported(metadata.environment.get('imports', []), str(workdir), error)
        raise InputFileError(f'checkpoint {path}: metadata.json has a config of no network: {error}') from None
    wanted = {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}
    try:
        variables = checkpoint.restore(path, {'ema': wanted} if ema else wanted)
    except ConfigError as error:
        raise InputFileError(str(error)) from None
    return metadata, int(path.name), model, variables['ema'] if ema else variables
