import pytest
from benchmark_support import config

from resnet_jax.benchmark.augmentation import AUGMENTATIONS, Augmentations, parse_augmentations, table
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError


def test_names():
    assert parse_augmentations(['all']) == list(AUGMENTATIONS)
    assert parse_augmentations(['cutmix', 'flip', 'cutmix']) == ['cutmix', 'flip']
    with pytest.raises(ConfigError, match=r"^no augmentation 'cutmx'; expected all or one of crop, .*did you mean 'cutmix'"):
        parse_augmentations(['cutmx'])


def test_each_is_another_config_than_none():
    plain = TrainConfig(crop_padding=0, flip=False)
    assert all(plain.replace(**changes) != plain for changes in AUGMENTATIONS.values())


def test_batches_are_loaded():
    subject = Augmentations(config(batch_size=8))
    assert subject.run(name='none', steps=2) > 0 and subject.run(name='cutout', steps=2) > 0
    facts = subject.describe()
    assert facts['image_shape'] == [8, 8, 1]
    rows = [
        {'augmentation': name, 'microseconds': times, 'batch_size': 8, 'dtype': 'float32', **facts}
        for name, times in (('none', [1.0, 2.0, 3.0]), ('cutout', [4.0, 5.5, 9.0]))
    ]
    assert table(rows).splitlines()[-2:] == ['| none | 2 |  | 1-3 |', '| cutout | 5.5 | 3.5 | 4-9 |']
