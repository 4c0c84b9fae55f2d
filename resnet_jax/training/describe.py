"""Logs the facts about a run before its first step."""

import logging

import jax

from resnet_jax.network import model_kwargs
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.state import TrainState
from resnet_jax.typing import PyTree

logger = logging.getLogger(__name__)


def log_start(experiment: Experiment, state: TrainState, step: int) -> None:
    """Logs the network, its size, the data set and the length of the run."""
    config = experiment.config
    if experiment.proxy:
        logger.info(
            '%s, %s parameters, selects what %s trains on: %d of %d images on each device',
            config.proxy_model,
            _count(state.proxy['params']),
            config.model,
            experiment.selected_count,
            experiment.device_batch_size,
        )
    logger.info(
        '%s, %s parameters, %s; %s: %s training images%s; %d epochs of %d iterations, batch %d; %s',
        config.model,
        _count(state.params),
        config.dtype,
        config.dataset,
        f'{experiment.num_examples:,}',
        f', {config.validation_size:,} held out' if config.validation_size else '',
        config.num_epochs,
        experiment.steps_per_epoch,
        config.batch_size,
        f'{jax.device_count()} {jax.local_devices()[0].platform} device(s)',
    )

    log_frozen(experiment, state, step)
    chosen = model_kwargs(config, experiment.info.image_shape)
    if chosen != dict(config.model_kwargs):
        height, width, _ = experiment.info.image_shape
        logger.info(
            '%s has stem=%s, because the images are %d x %d; model_kwargs.stem=cifar keeps the stem for small ones.',
            config.model,
            chosen['stem'],
            height,
            width,
        )
    dropped = experiment.num_examples - experiment.steps_per_epoch * config.batch_size
    if 10 * dropped > experiment.num_examples:
        logger.warning(
            'Each epoch leaves out %d of the %d training images, which do not fill another batch of %d; a smaller '
            'batch_size leaves out fewer.',
            dropped,
            experiment.num_examples,
            config.batch_size,
        )


def log_frozen(experiment: Experiment, state: TrainState, step: int) -> None:
    """Logs how many parameters train from now on, and which, if some are frozen."""
    frozen = experiment.in_phase(experiment.phase_at(step)).frozen
    if not frozen.names:
        if experiment.freezing:
            logger.info('From epoch %d on all parameters train.', step // experiment.steps_per_epoch)
        return
    moving, still = frozen.split(state.params)
    logger.info(
        'From epoch %d on %s of %s parameters train (%s); %s are frozen, and so are the statistics of %d BatchNorm layers.',
        step // experiment.steps_per_epoch,
        _count(moving),
        _count(state.params),
        ', '.join([*moving][:8]) + (', ...' if len(moving) > 8 else ''),
        _count(still),
        len({name.rpartition('/')[0] for name in frozen.names if name.startswith('batch_stats/')}),
    )


def _count(tree: PyTree) -> str:
    return f'{sum(leaf.size for leaf in jax.tree.leaves(tree)):,}'
