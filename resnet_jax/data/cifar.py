"""Loads CIFAR-10 and CIFAR-100 from a tfds folder, which it prepares from the official archive if there is none."""

import logging
import os

from resnet_jax.data import cache, tfds_folder
from resnet_jax.data.sources import Source
from resnet_jax.data.split import Dataset

logger = logging.getLogger(__name__)


def load_cifar(
    source: Source, data_dir: str | os.PathLike[str] | None = None, archive: str | os.PathLike[str] | None = None
) -> Dataset:
    """Loads the data set; arguments and errors as in `resnet_jax.data.load_dataset`."""
    root = tfds_folder.tfds_root(data_dir)
    folder = tfds_folder.find_folder(root, source.name)
    if folder is None:
        from resnet_jax.data.prepare import prepare_folder

        folder = prepare_folder(source, root, archive)
    elif archive:
        logger.warning('%s is already prepared: it is used, and the archive %s is not read', folder, archive)
    fingerprint = tfds_folder.fingerprint(folder)
    train, test = cache.cached(f'{source.name}-{fingerprint[:32]}', lambda: tfds_folder.read_folder(folder, source))
    return Dataset(
        name=source.name,
        train=train,
        test=test,
        class_names=tfds_folder.class_names(folder, source.num_classes),
        mean=source.mean,
        std=source.std,
        fingerprint=fingerprint,
    )
