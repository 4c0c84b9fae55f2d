"""Places the data on the devices and loads batches there: gathers, augments and mixes the examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from resnet_jax.data import Split
from resnet_jax.data.augment import augment, mirrored_in_epoch, mix, random_mixing
from resnet_jax.data.order import StepImages
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.runtime.devices import DeviceData, replicate
from resnet_jax.training.class_weights import class_weights, weight_labels
from resnet_jax.training.experiment import Experiment

# Random streams. Each is folded into the run's key before the step, so that no two streams share a key.
AUGMENT, MIXING, DROPOUT, FLIP = 1, 2, 3, 4


def seed_key(seed: int) -> np.ndarray:
    """Returns the data of a run's PRNG key, uint32 `[2]`; all randomness on the device derives from it."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def load_batch(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    positions: jax.Array,
    step: jax.Array,
    key: jax.Array,
    weights: jax.Array | None = None,
    rows: jax.Array | None = None,
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    alternating_flip: bool = False,
    steps_per_epoch: int = 1,
    **augmentation: Any,
) -> dict[str, jax.Array]:
    """Gathers, augments and mixes this device's shard of a batch from the data set on the device.

    Every random choice depends on the seed, the step and the example's position in the global batch, not on the device
    that computes it.

    Args:
      images: uint8 `[n, height, width, channels]`; labels: int32 `[n]`: the whole training set.
      order: int32 `[batch_size]`: the examples of the global batch.
      positions: int32 `[batch]`: this device's positions in the global batch.
      rows: int32 `[batch_size]`: the rows of `images` with the global batch, if `images` is not the whole training set.
      weights: float32 `[num_classes]`: the weights of the classes in the loss, if they differ.
      mixup_alpha, cutmix_alpha: see `random_mixing`. The i-th example of the global batch, which is in random order, is mixed
        with the i-th from the end.
      alternating_flip, steps_per_epoch: see `mirrored_in_epoch`; the epoch is `step // steps_per_epoch`.
      augmentation: see `augment`.

    Returns:
      'image' and 'label' as `train_step` takes them; with `weights`, also 'weighted_label'.
    """

    def load(positions: jax.Array) -> dict[str, jax.Array]:
        augment_key = jax.random.fold_in(jax.random.fold_in(key, AUGMENT), step)
        keys = jax.vmap(lambda position: jax.random.fold_in(augment_key, position))(positions)
        chosen = order[positions]
        label = optax.smooth_labels(jax.nn.one_hot(labels[chosen], num_classes), label_smoothing)
        mirrored = None
        if alternating_flip:
            mirrored = mirrored_in_epoch(jax.random.fold_in(key, FLIP), chosen, step // steps_per_epoch)
        image = images[chosen if rows is None else rows[positions]]
        batch = {'image': augment(keys, image, mirrored=mirrored, **augmentation), 'label': label}
        if weights is not None:
            batch['weighted_label'] = weight_labels(label, weights, labels[order])
        return batch

    batch = load(positions)
    if mixup_alpha or cutmix_alpha:
        mixing_key = jax.random.fold_in(jax.random.fold_in(key, MIXING), step)
        height, width = images.shape[1:3]
        mixing = random_mixing(mixing_key, height, width, mixup_alpha, cutmix_alpha)
        batch = mix(batch, load(order.shape[0] - 1 - positions), mixing)
    return batch


def load_function(experiment: Experiment, *, cropped: bool = False) -> Callable[..., dict[str, jax.Array]]:
    """Returns `load_batch` with its keyword arguments set from an experiment.

    Args:
      cropped: whether the images are random resized crops already: see `step_images`.
    """
    config = experiment.config
    return functools.partial(
        load_batch,
        num_classes=experiment.info.num_classes,
        mean=experiment.info.mean,
        std=experiment.info.std,
        dtype=experiment.dtype,
        steps_per_epoch=experiment.steps_per_epoch,
        crop_padding=0 if cropped else config.crop_padding,
        crop_mode=config.crop_mode,
        resized_crop_area=0.0 if cropped else config.resized_crop_area,
        flip=config.flip,
        alternating_flip=config.alternating_flip,
        saturation=config.saturation,
        hue=config.hue,
        auto_augment=config.auto_augment,
        randaugment_num_ops=config.randaugment_num_ops,
        randaugment_magnitude=config.randaugment_magnitude,
        brightness=config.brightness,
        contrast=config.contrast,
        cutout_size=config.cutout_size,
        random_erasing_prob=config.random_erasing_prob,
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        label_smoothing=config.label_smoothing,
    )


def step_images(experiment: Experiment, train: Split, positions: np.ndarray) -> StepImages:
    """Returns, for each step, the images that a process needs for some positions of the global batch, int32 `[k]`.

    Images on demand are random resized crops if the config sets these; `load_batch` does all other augmentation.
    """
    config = experiment.config
    if config.mixup_alpha or config.cutmix_alpha:  # the i-th image is mixed with the i-th from the end
        positions = np.union1d(positions, config.batch_size - 1 - positions)
    return StepImages(
        train.image,
        seed=config.seed,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        positions=positions,
        crop_area=config.resized_crop_area if isinstance(train.image, ImagesOnDemand) else 0.0,
    )


def device_data(experiment: Experiment, train: Split, *, images: bool = True) -> DeviceData:
    """Places a training set on every device: 'image' if `images`, 'label' and, if the config has any, 'class_weights'.

    Raises:
      ConfigError: see `class_weights`.
    """
    data: DeviceData = {'label': train.label}
    if images:
        assert not isinstance(train.image, ImagesOnDemand)
        data['image'] = train.image
    if experiment.config.class_weights:
        data['class_weights'] = class_weights(experiment.config.class_weights, train.label, experiment.info.num_classes)
    return replicate(data)
