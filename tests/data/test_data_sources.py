import importlib.resources
import urllib.parse

import pytest

from resnet_jax.data.sources import SOURCES


@pytest.mark.parametrize('source', SOURCES.values(), ids=SOURCES)
def test_the_archive_is_the_one_that_tfds_states(source):
    stated = importlib.resources.files('tensorflow_datasets') / 'url_checksums' / f'{source.name}.txt'
    (file,) = next(copy.files for copy in source.copies if copy.form == 'binary')
    assert stated.read_text().split() == [file.urls[-1], str(file.size), file.sha256, file.name]


def test_labels():
    assert {name: source.num_classes for name, source in SOURCES.items()} == {'cifar10': 10, 'cifar100': 100}


@pytest.mark.parametrize('source', SOURCES.values(), ids=SOURCES)
def test_every_address_leads_to_the_file_that_it_is_of(source):
    files = [file for copy in source.copies for file in copy.files]
    assert all(url.startswith('https://') and url.endswith(f'/{file.name}') for file in files for url in file.urls)
    assert len({file.sha256 for file in files}) == len(files) == 4
    assert source.md5.keys() == {*source.train_files, *source.test_files}
    assert len({urllib.parse.urlsplit(url).netloc for file in files for url in file.urls}) >= 3
