import ast
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from resnet_jax.config import TrainConfig
from resnet_jax.data import DatasetInfo, dataset_info
from resnet_jax.models import available_models
from resnet_jax.network import build_model
from resnet_jax.training.experiment import check_batch_size

FILES = sorted((Path(__file__).parent.parent / 'configs').glob('[!_]*.py'))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_the_configs_of_the_readme_exist():
    assert {'default', 'alexnet', 'd2l_resnet18', 'quickstart', 'speedrun94', 'speedrun96', 'speedrun_cpu'} <= {
        path.stem for path in FILES
    }


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_config_is_valid_and_fits_its_network_and_data(path):
    config = load(path)
    assert isinstance(config, ConfigDict)
    checked = TrainConfig.from_mapping(config)
    assert checked.model in available_models()
    if ':' in checked.dataset:  # pictures of the user's own
        info = DatasetInfo(checked.dataset, (checked.image_size, checked.image_size, 3), 2, 645, 153, (0.5,) * 3, (0.2,) * 3)
    else:
        info = dataset_info(checked.dataset)
    for devices in (1, 2, 4, 8):
        check_batch_size(checked.batch_size, devices, checked.gradient_accumulation_steps, info.num_train)
    model = build_model(checked, info.num_classes, info.image_shape)
    images = jnp.zeros((1, *info.image_shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert variables['params']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_config_is_its_own(path):
    """Two calls must not share what one of them may change."""
    first, second = load(path), load(path)
    with first.unlocked():
        first.seed = 12345
        first.model_kwargs['num_filters'] = 3
    assert second.seed != 12345 and 'num_filters' not in second.model_kwargs


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_config_is_data_only(path):
    """A docstring, imports of the package, and get_config() without branches or loops."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    imported = {node.module.split('.')[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {'resnet_jax'}
    assert not any(isinstance(node, ast.Import | ast.If | ast.For | ast.While) for node in ast.walk(tree))
