"""A user's own network, data set and optimizer, used by every command from a folder without the checkout."""

import json

import pytest
from commands_support import error_line
from installed import TINY, resnet_jax
from PIL import Image
from sampling import sample

OWN = """
import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import optax

import resnet_jax


class Small(nn.Module):
    num_classes: int
    dtype: jnp.dtype = jnp.float32
    width: int = 8

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(self.width, (3, 3), strides=2, dtype=self.dtype)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes)(x).astype(jnp.float32)


def load(data_dir, archive):
    return dataclasses.replace(resnet_jax.load_dataset('digits'), name='my_digits')


resnet_jax.register_model('small', Small)
resnet_jax.register_dataset('my_digits', load)
resnet_jax.register_optimizer('my_sgd', lambda schedule, config: optax.sgd(schedule, config.momentum))
"""
CONFIG = """
from resnet_jax.configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.dataset = 'my_digits'
    config.model = 'small'
    config.model_kwargs = {'width': 4}
    config.optimizer = OPTIMIZER
    return config
"""
STUDY = """
def get_study():
    overrides = {'num_epochs': 1, 'warmup_epochs': 0.5}
    return {
        'entries': {'mine': {'config': 'mine.py', 'overrides': overrides}},
        'sizes': {'cpu': {'seeds': [0]}},
    }
"""
IMPORT = '--import=my_parts'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the user's files and a finished run, 'run'."""
    folder = tmp_path_factory.mktemp('user')
    (folder / 'my_parts.py').write_text(OWN)
    (folder / 'mine.py').write_text(CONFIG.replace('OPTIMIZER', "'my_sgd'"))
    (folder / 'plain.py').write_text(CONFIG.replace('OPTIMIZER', "'sgd'"))
    (folder / 'study.py').write_text(STUDY)
    Image.new('L', (8, 8)).save(folder / 'digit.png')
    resnet_jax(folder, 'train', IMPORT, '--config=mine.py', '--workdir=run', *TINY)
    return folder


@pytest.fixture(scope='module')
def plain(folder):
    """Another run in it, 'plain', with an optimizer of the package."""
    resnet_jax(folder, 'train', IMPORT, '--config=plain.py', '--workdir=plain', *TINY)


@pytest.mark.slow
def test_weights_of_an_own_network_are_saved_and_evaluated(folder):
    metrics = json.loads((folder / 'run' / 'result.json').read_text())
    assert 'small, 10 classes' in resnet_jax(folder, 'convert', IMPORT, '--workdir=run', '--out=small.safetensors').stdout
    flags = '--weights=small.safetensors', '--dataset=my_digits', '--json'
    again = json.loads(resnet_jax(folder, 'evaluate', IMPORT, *flags).stdout)
    assert again['accuracy'] == metrics['accuracy']
    table = resnet_jax(folder, 'models', IMPORT, 'small', '--image=8', '--channels=1', '--model_kwargs=width=4').stdout
    assert 'BatchNorm_0' in table


@pytest.mark.parametrize('workdir', sample(['run', 'plain'], 2))
@pytest.mark.parametrize('arguments', [['evaluate'], ['predict', 'digit.png'], ['export', '--out=nothing'], ['train']])
def test_a_network_of_ones_own_is_not_reason_enough_to_import(folder, arguments, workdir, request):
    """The optimizer of 'plain' is one of the package: its config is valid, and the network is found missing."""
    if workdir == 'plain':
        request.getfixturevalue('plain')
    line = error_line(resnet_jax(folder, *arguments, f'--workdir={workdir}', code=2))
    assert 'needs modules that are not imported' in line and line.endswith('; expected --import=my_parts')
    assert not (folder / 'nothing').exists()


@pytest.mark.slow
def test_a_run_of_an_own_data_set_alone_predicts_without_the_module_and_names_it_to_evaluate(folder):
    flags = f'{IMPORT} --config=quickstart --config.dataset=my_digits --config.model_kwargs.num_filters=4 --workdir=data'
    resnet_jax(folder, 'train', *flags.split(), *TINY)
    assert resnet_jax(folder, 'predict', '--workdir=data', 'digit.png').stdout.startswith('digit.png: ')
    line = error_line(resnet_jax(folder, 'evaluate', '--workdir=data', code=2))
    assert "data set 'my_digits' is unknown" in line and line.endswith('; expected --import=my_parts')


@pytest.mark.slow
def test_it_is_continued_by_its_folder_alone(folder):
    flags = '--workdir', 'run', '--config.num_epochs=3', '--extend'
    assert 'Epoch 3: ' in resnet_jax(folder, 'train', '--import', 'my_parts', *flags).stdout


@pytest.mark.slow
def test_a_study_and_a_benchmark_give_the_module_to_the_processes_they_start(folder):
    resnet_jax(folder, 'study', IMPORT, '--config=study.py', '--workdir=studied')
    assert json.loads((folder / 'studied' / 'mine/seed0' / 'result.json').read_text())['epoch'] == 1
    assert 'multiply-adds' in resnet_jax(folder, 'study', IMPORT, '--config=study.py', '--workdir=new', '--dry_run').stdout
    flags = '--config=mine.py', '--rounds=2', '--seconds=0.01', '--json=speed.json'
    resnet_jax(folder, 'benchmark', IMPORT, *flags)
    assert json.loads((folder / 'speed.json').read_text())[0]['model'] == 'small'


@pytest.mark.slow
def test_an_installed_package_is_imported_by_the_name_of_its_entry_point(folder, tmp_path):
    described = tmp_path / 'site' / 'theirs-1.0.dist-info'
    described.mkdir(parents=True)
    (described / 'METADATA').write_text('Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n')
    (described / 'entry_points.txt').write_text('[resnet_jax]\ntheirs = their_package\n')
    (tmp_path / 'site' / 'their_package.py').write_text(OWN.replace("'small'", "'theirs'"))
    path = {'PYTHONPATH': f'{tmp_path / "site"}'}
    assert 'theirs' in resnet_jax(tmp_path, 'models', '--import=theirs', **path).stdout.split()
    assert 'theirs' not in resnet_jax(tmp_path, 'models', **path).stdout.split()  # being installed is not reason enough


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        (None, "module 'broken' cannot be imported (ModuleNotFoundError: No module named 'broken'); expected one in the"),
        ('raise SystemExit(7)', "module 'broken' cannot be imported (SystemExit: 7)"),
        ('1 / 0', "module 'broken' cannot be imported (ZeroDivisionError: division by zero)"),
        ("import resnet_jax\nresnet_jax.register_model('resnet18', print)", "model 'resnet18' exists already"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(content, text, tmp_path):
    if content:
        (tmp_path / 'broken.py').write_text(content)
    assert text in error_line(resnet_jax(tmp_path, 'models', '--import=broken', code=2))
