"""Tiny copies of CIFAR; nothing here touches the network or the user's own folders."""

import shutil

import pytest
from cifar_copies import Tiny

import resnet_jax.data
from resnet_jax.data.prepare import prepare_folder
from resnet_jax.data.sources import CIFAR10, CIFAR100


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
