"""A folder with what the documents take for granted: runs, pictures, files of weights."""

import dataclasses
import functools
import shutil
import sys

import numpy as np
import pytest
from document_blocks import blocks
from document_folder import write_files


@pytest.fixture(scope='module')
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope='module')
def small(patch):
    """In this process: digits are few, and the networks of the documents have a block in each of two stages."""
    import jax

    import resnet_jax
    from resnet_jax import data, models
    from resnet_jax.weights import match

    digits = resnet_jax.load_dataset('digits')
    few = dataclasses.replace(
        digits, train=digits.train.select(np.arange(480)), test=digits.test.select(np.arange(40)), fingerprint='few'
    )
    tiny = functools.partial(models.ResNet, stage_sizes=(1, 1), num_filters=4, shortcut='identity')
    patch.setattr(models, '_MODELS', {**models._MODELS, 'resnet18': tiny, 'resnet20': tiny})
    patch.setattr(data, '_DATASETS', {**data._DATASETS, 'digits': data._Entry(lambda options: few, few.info)})
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', True)
    match._named_shapes.cache_clear()  # of the networks that really have these names, and then of the small ones
    yield
    match._named_shapes.cache_clear()
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def registrations(small, monkeypatch):
    """What a test registers, and the modules that it imports to do so, are gone after it."""
    from resnet_jax import config, data, models, plugins
    from resnet_jax.training import optimizer

    for module, name in ((models, '_MODELS'), (data, '_DATASETS'), (optimizer, '_REGISTERED')):
        monkeypatch.setattr(module, name, {**getattr(module, name)})
    monkeypatch.setattr(plugins, 'imported', [])
    names = [*config.OPTIMIZERS]
    yield
    config.OPTIMIZERS[:] = names
    for block in blocks('python'):
        sys.modules.pop(str(block.file).removesuffix('.py'), None)


@pytest.fixture(scope='module')
def files(tmp_path_factory, patch, small):
    """The current folder, with pictures and with the files that blocks are of."""
    folder = tmp_path_factory.mktemp('documents')
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    write_files(folder)
    return folder


@pytest.fixture(scope='module')
def folder(files):
    """The same, with runs and a file of weights, made in this process with small networks and few images."""
    import jax

    import resnet_jax
    from resnet_jax.configs import quickstart
    from resnet_jax.weights import save_torch

    config = quickstart.get_config()
    config.num_epochs, config.warmup_epochs = 2, 0.5
    config.model_kwargs = {'num_filters': 4, 'stage_sizes': (1, 1, 2)}
    resnet_jax.train_and_evaluate(config, 'runs/quickstart')
    for name in ('resnet18', 'digits'):
        shutil.copytree('runs/quickstart', f'runs/{name}')
    model = resnet_jax.create_model('resnet20')
    init = jax.jit(functools.partial(model.init, train=False))
    save_torch('resnet20.th', model, init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    return files


@pytest.fixture
def served(folder):
    """What the export command writes."""
    import resnet_jax
    from resnet_jax.export import export_classifier

    export_classifier(resnet_jax.load('runs/quickstart'), 'served', ('stablehlo', 'onnx'))
