"""What `import resnet_jax` offers."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import resnet_jax
from resnet_jax import config, data, models
from resnet_jax.errors import ConfigError
from resnet_jax.training import optimizer


def test_the_package_imports_nothing_but_itself():
    code = 'import sys; before = {*sys.modules}; import resnet_jax; dir(resnet_jax); print(*{*sys.modules} - before)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert not {'jax', 'flax', 'numpy', 'ml_collections'} & {*done.stdout.split()}


def test_every_name_is_there_and_documented():
    assert sorted(resnet_jax.__all__) == resnet_jax.__all__
    assert {*resnet_jax.__all__} <= {*dir(resnet_jax)}
    for name in resnet_jax.__all__:
        assert len(inspect.getdoc(getattr(resnet_jax, name)) or '') > 20, name
    assert resnet_jax.load == resnet_jax.Classifier.load
    with pytest.raises(AttributeError, match="module 'resnet_jax' has no attribute 'lod'"):
        _ = resnet_jax.lod


def test_a_type_checker_sees_the_same_names():
    """The imports that only type checkers see are those that `__getattr__` makes."""
    tree = ast.parse(Path(resnet_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix('resnet_jax.')
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == resnet_jax._MODULES
    assert {*seen, 'load'} == {*resnet_jax.__all__}
    assert Path(resnet_jax.__file__).with_name('py.typed').is_file()


class Small(nn.Module):
    num_classes: int
    dtype: jnp.dtype = jnp.float32
    width: int = 8
    act: str = 'relu'


@pytest.fixture
def tables(monkeypatch):
    """Registrations of a test are undone."""
    monkeypatch.setattr(models, '_MODELS', {**models._MODELS})
    monkeypatch.setattr(data, '_DATASETS', {**data._DATASETS})
    monkeypatch.setattr(optimizer, '_REGISTERED', {})
    names = [*config.OPTIMIZERS]
    yield
    config.OPTIMIZERS[:] = names


@pytest.mark.usefixtures('tables')
def test_a_model_is_found_by_its_name():
    resnet_jax.register_model('small', Small)
    assert 'small' in resnet_jax.available_models()
    assert resnet_jax.create_model('small', num_classes=3, width=4) == Small(num_classes=3, width=4)
    with pytest.raises(ConfigError, match=r"small has no argument 'widht'; did you mean 'width'\?"):
        resnet_jax.create_model('small', widht=4)
    resnet_jax.register_model('any', lambda **kwargs: Small(**kwargs))
    assert resnet_jax.create_model('any', num_classes=2, width=5).width == 5


@pytest.mark.usefixtures('tables')
@pytest.mark.parametrize(
    ('name', 'factory', 'text'),
    [
        ('resnet18', Small, "model 'resnet18' exists already"),
        ('instance', Small(num_classes=1), 'expected a class of modules or a function'),
        ('function', lambda num_classes: None, "has no argument 'dtype'; expected num_classes and dtype"),
    ],
)
def test_a_factory_that_cannot_be_called_is_refused(name, factory, text):
    with pytest.raises(ConfigError, match=text):
        resnet_jax.register_model(name, factory)


@pytest.mark.usefixtures('tables')
def test_a_data_set_and_an_optimizer_are_found_by_their_names():
    digits = resnet_jax.load_dataset('digits')
    resnet_jax.register_dataset('mine', lambda data_dir, archive: digits)
    assert resnet_jax.load_dataset('mine') is digits and data.dataset_info('mine') == digits.info
    tx = optax.sgd(0.1)
    with pytest.raises(ConfigError, match="'optimizer' is 'mine'; expected one of sgd, adam, adamw, muon"):
        resnet_jax.TrainConfig(optimizer='mine')
    resnet_jax.register_optimizer('mine', lambda schedule, config: tx)
    assert optimizer.create_optimizer('mine', lambda step: 0.1, config=resnet_jax.TrainConfig(optimizer='mine')) is tx
    for register in (resnet_jax.register_dataset, resnet_jax.register_optimizer):
        with pytest.raises(ConfigError, match="'mine' exists already"):
            register('mine', print)
