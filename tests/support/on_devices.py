"""Trains a tiny network on all devices and saves what came of it. `python on_devices.py FILE` runs it by itself, so that
JAX_NUM_CPU_DEVICES decides the number of devices."""

import functools
import sys

import numpy as np
import tiny

from resnet_jax.models import create_model
from resnet_jax.runs.checkpoint import leaves_by_name
from resnet_jax.runtime.devices import AXIS, device_positions, replicate
from resnet_jax.training.loading import load_batch, seed_key
from resnet_jax.training.optimizer import create_optimizer, create_schedule
from resnet_jax.training.program import map_over_devices, train_steps
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import train_step

STEPS, BATCH_SIZE, SEED = 4, 16, 5
AUGMENTATION = {
    'crop_padding': 1,
    'crop_mode': 'reflect',
    'flip': True,
    'alternating_flip': True,
    'steps_per_epoch': 2,
    'brightness': 0.2,
    'contrast': 0.2,
    'cutout_size': 2,
    'auto_augment': 'randaugment',
    'random_erasing_prob': 0.5,
    'mixup_alpha': 0.5,
    'cutmix_alpha': 1.0,
    'label_smoothing': 0.1,
}
BATCH_NORM = create_model('resnet8', num_classes=3, stage_sizes=(1,), num_filters=4, axis_name=AXIS)


def set_up(model, step_fn=train_step, **loading):
    """Returns the initial state, the arguments that follow it, and the steps to run on them."""
    schedule = create_schedule('constant', peak=0.05, total_steps=100)
    tx = create_optimizer('sgd', schedule, weight_decay=1e-3, momentum=0.9, nesterov=True)
    state = replicate(create_train_state(model, tx, (8, 8, 1), SEED, ema=True))
    split = tiny.split(STEPS * BATCH_SIZE, 1)
    data = replicate({'image': split.image, 'label': split.label, 'class_weights': np.array([0.5, 1, 3], np.float32)})
    order = replicate(np.arange(STEPS * BATCH_SIZE, dtype=np.int32).reshape(STEPS, BATCH_SIZE)[:, ::-1])
    step_fn = functools.partial(step_fn, model=model, tx=tx, ema_decay=0.15)
    load_fn = functools.partial(load_batch, num_classes=3, mean=(0.3,), std=(0.2,), **loading)
    run = map_over_devices(functools.partial(train_steps, step_fn=step_fn, load_fn=load_fn))
    return state, (device_positions(BATCH_SIZE), data, order, seed_key(SEED)), run


def results():
    """Returns losses, accuracies, gradient norms and the final state, as arrays by name."""
    state, arguments, run = set_up(BATCH_NORM, **AUGMENTATION)
    state, metrics = run(state, *arguments, np.int32(0), np.int32(STEPS))
    return {name: np.asarray(value) for name, value in {**metrics, **leaves_by_name(state)}.items()}


if __name__ == '__main__':
    np.savez(sys.argv[1], **results())
