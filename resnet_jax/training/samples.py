"""Draws a sheet of training images, as they are augmented in the first steps, for the report of a run."""

from pathlib import Path

import jax
import numpy as np

from resnet_jax.data import Split
from resnet_jax.data.order import epoch_order
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.report.optional import optional
from resnet_jax.report.sheet import write_sheet
from resnet_jax.runtime.devices import options_for_init
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.loading import load_function, seed_key, step_images

_IMAGES, _STEPS = 8, 7
_WORTH_A_LOOK = (  # crop, flip, cutout and small changes of colour are not worth the compilation at every start
    *('resized_crop_area', 'saturation', 'hue', 'random_erasing_prob', 'mixup_alpha', 'cutmix_alpha'),
)


def draw_samples(experiment: Experiment, train: Split, folder: Path) -> None:
    """Writes plots/augmentation.png if the images change a lot; logs a warning if it cannot be written."""
    config = experiment.config
    if config.auto_augment == 'none' and not any(getattr(config, name) for name in _WORTH_A_LOOK):
        return
    with optional('The sheet of augmented images could not be drawn'):
        write_sheet(first_images(experiment, train), folder / 'plots' / 'augmentation.png')


def first_images(experiment: Experiment, train: Split) -> np.ndarray:
    """Returns the first images of the first batch, unchanged and as `load_batch` augments them in the first steps.

    The random choices are the same as in the run, but from the second step on, the run has other images at these positions.

    Returns:
      uint8 `[images, 1 + steps, height, width, channels]`: up to eight images, each unchanged and at seven steps.
    """
    config, info = experiment.config, experiment.info
    batch = epoch_order(config.seed, 0, experiment.num_examples, config.batch_size)[0]
    needed = step_images(experiment, train, np.arange(min(_IMAGES, len(batch)), dtype=np.int32))
    examples, rows = batch[needed.positions], np.zeros(len(batch), np.int32)
    rows[needed.positions] = np.arange(len(examples))
    originals, cropped = train.image[examples], needed.crop_area > 0
    order, load = np.arange(len(batch), dtype=np.int32), load_function(experiment, cropped=cropped)
    positions, labels = order[:_IMAGES], train.label[batch]

    def at(images: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        return load(images, labels, order, positions, step, jax.random.wrap_key_data(key), None, rows)['image']

    run = jax.jit(at, compiler_options=options_for_init(jax.random.key(0)))
    steps = []
    for step in range(_STEPS):
        images = originals
        if cropped and isinstance(train.image, ImagesOnDemand):
            images = train.image.crops(examples, config.seed, step, needed.positions, needed.crop_area)
        steps.append(np.asarray(run(images, seed_key(config.seed), np.int32(step)), np.float32))
    mean, std = (np.array(values, np.float32) for values in (info.mean, info.std))
    shown = np.clip(np.nan_to_num(np.rint(255 * (np.stack(steps, axis=1) * std + mean))), 0, 255).astype(np.uint8)
    return np.concatenate([originals[rows[positions], None], shown], axis=1)
