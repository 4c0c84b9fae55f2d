import importlib.resources

import pytest

from resnet_jax.data.sources import SOURCES


@pytest.mark.parametrize('source', SOURCES.values(), ids=SOURCES)
def test_the_archive_is_the_one_that_tfds_states(source):
    stated = importlib.resources.files('tensorflow_datasets') / 'url_checksums' / f'{source.name}.txt'
    assert stated.read_text().split() == [source.url, str(source.size), source.sha256, source.archive_name]


def test_labels():
    assert {name: source.num_classes for name, source in SOURCES.items()} == {'cifar10': 10, 'cifar100': 100}
