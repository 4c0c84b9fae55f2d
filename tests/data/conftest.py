"""Tiny archives and folders in the official formats; nothing here touches the network or the user's own folders."""

import dataclasses
import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest

import resnet_jax.data
from resnet_jax.data.prepare import prepare_folder
from resnet_jax.data.sources import CIFAR10, CIFAR100, Copy, File

NUM_TRAIN, NUM_TEST = 20, 8


class Tiny:
    """A small official-format archive, its contents, and a `Source` that describes it."""

    def __init__(self, official, folder):
        rng = np.random.default_rng(len(official.labels))
        self.image, self.label, self.members = {}, {}, {}
        for split, files, total in (
            ('train', official.train_files, NUM_TRAIN),
            ('test', official.test_files, NUM_TEST),
        ):
            image = rng.integers(0, 256, (total, 32, 32, 3), np.uint8)
            labels = [rng.integers(0, label.num_classes, total).astype(np.uint8) for label in official.labels]
            rows = np.concatenate([np.stack(labels, 1), image.transpose(0, 3, 1, 2).reshape(total, -1)], axis=1)
            self.image[split] = image
            self.label[split] = dict(zip([label.key for label in official.labels], labels, strict=True))
            for name, block in zip(files, np.split(rows, len(files)), strict=True):
                self.members[name] = block.tobytes()
        for label in official.labels:
            names = [f'{label.key}_{i}' for i in range(label.num_classes)]
            self.members[label.names_file] = ('\n'.join(names) + '\n\n').encode()
        (copy,) = [copy for copy in official.copies if copy.form == 'binary']
        self.path, self.folder = folder / copy.files[0].name, copy.folder
        md5 = {name: hashlib.md5(self.members[name]).hexdigest() for name in official.md5}
        self.source = dataclasses.replace(official, num_train=NUM_TRAIN, num_test=NUM_TEST, md5=md5)
        self.write()

    def write(self, members=None, extra=()):
        """Writes the archive anew, from other members if given; returns the source with its right size and hash."""
        with tarfile.open(self.path, 'w:gz') as tar:
            for name, data in (self.members if members is None else members).items():
                info = tarfile.TarInfo(f'{self.folder}/{name}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for info in extra:
                tar.addfile(info)
        return self.fit()

    def fit(self, urls=()):
        """Takes what is there for official, and for the only copy."""
        self.source = dataclasses.replace(self.source, copies=(Copy('binary', (official_file(self.path, urls),), self.folder),))
        return self.source

    @property
    def file(self):
        return self.source.copies[0].files[0]


def official_file(path, urls=()):
    data = path.read_bytes()
    return File(path.name, len(data), hashlib.sha256(data).hexdigest(), tuple(urls))


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A home and a cache of its own for every test, and no proxy between it and its local server."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A tiny CIFAR-10, known to `load_dataset` as 'cifar10'."""
    result = Tiny(CIFAR10, tmp_path)
    monkeypatch.setitem(resnet_jax.data.SOURCES, 'cifar10', result.source)
    return result


@pytest.fixture
def tiny100(tmp_path, monkeypatch):
    """A tiny CIFAR-100, known to `load_dataset` as 'cifar100'."""
    result = Tiny(CIFAR100, tmp_path)
    monkeypatch.setitem(resnet_jax.data.SOURCES, 'cifar100', result.source)
    return result


@pytest.fixture(scope='session')
def prepared_once(tmp_path_factory):
    root = tmp_path_factory.mktemp('prepared')
    tiny = Tiny(CIFAR10, root)
    prepare_folder(tiny.source, root / 'root', tiny.path)
    return root / 'root'


@pytest.fixture
def prepared(tmp_path, prepared_once, tiny):
    """A tfds root that holds the tiny CIFAR-10, prepared by us; the test may damage it."""
    return shutil.copytree(prepared_once, tmp_path / 'root')
