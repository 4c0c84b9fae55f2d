"""The data set cifar10_three of finetuning.py: airplanes, automobiles and birds, the first three classes of CIFAR-10."""

import dataclasses

from resnet_jax.data import load_dataset, register_dataset
from resnet_jax.data.split import Fingerprint

NAME, CLASSES = 'cifar10_three', 3


def _load(data_dir, archive):
    cifar10 = load_dataset('cifar10', data_dir=data_dir or '', data_archive=archive or '')
    train, test = (split.select(split.label < CLASSES) for split in (cifar10.train, cifar10.test))
    return dataclasses.replace(
        cifar10,
        name=NAME,
        train=train,
        test=test,
        class_names=cifar10.class_names[:CLASSES],
        fingerprint=Fingerprint.of(train, test),
    )


register_dataset(NAME, _load)
