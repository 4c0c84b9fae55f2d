"""Loads CIFAR-10 and CIFAR-100 from a tfds folder; if there is none, prepares it from the official archive."""

import logging

import numpy as np

from resnet_jax.data import cache, tfds_folder
from resnet_jax.data.options import DEFAULTS, LoadOptions
from resnet_jax.data.sources import Source
from resnet_jax.data.split import Dataset, Fingerprint, Split
from resnet_jax.errors import InputFileError
from resnet_jax.typing import JsonDict

logger = logging.getLogger(__name__)

_NOT_OFFICIAL = 'the pixels or labels differ from the official ones by their hash, as those of a re-encoded copy do'


def official_test_order(source: Source, data_dir: str) -> np.ndarray:
    """Returns the position of each test image of `load_cifar` in the official test set, int64 [n].

    Raises:
      InputFileError: there is no tfds folder in `data_dir` or the default root, or its examples have no ids.
    """
    root = tfds_folder.tfds_root(data_dir)
    folder = tfds_folder.find_folder(root, source.name)
    if folder is None:
        raise InputFileError(f'no {source.name} in {root}; expected the folder that the test set was read from')
    return tfds_folder.official_order(folder, source, 'test')


def load_cifar(source: Source, options: LoadOptions = DEFAULTS) -> Dataset:
    """Loads the data set; errors as in `resnet_jax.data.load_dataset`."""
    root = tfds_folder.tfds_root(options.data_dir)
    folder = tfds_folder.find_folder(root, source.name)
    if folder is None:
        from resnet_jax.data.prepare import prepare_folder

        folder = prepare_folder(source, root, options.data_archive)
    elif options.data_archive:
        logger.warning('%s is already prepared: it is used, and the archive %s is not read', folder, options.data_archive)

    def decode(writer: cache.ArrayWriter) -> JsonDict:
        *both, official = tfds_folder.read_folder(folder, source)
        splits = dict(zip(('train', 'test'), both, strict=True))
        for name, split in splits.items():
            writer.write(f'{name}_image', [split.image[:]])
            writer.write(f'{name}_label', [split.label])
        return {'fingerprint': Fingerprint.of(*splits.values()), 'official': official}

    done = cache.cached(f'{source.name}-{tfds_folder.fingerprint(folder)[:32]}', decode)
    notes = () if done.facts.get('official', True) else (_NOT_OFFICIAL,)  # older versions did not cache this fact
    for note in notes:
        logger.info('%s: %s', folder, note)
    return Dataset(
        name=source.name,
        train=Split(done.arrays['train_image'], done.arrays['train_label']),
        test=Split(done.arrays['test_image'], done.arrays['test_label']),
        class_names=tfds_folder.class_names(folder, source.num_classes),
        mean=source.mean,
        std=source.std,
        fingerprint=done.facts['fingerprint'],
        notes=notes,
    )
