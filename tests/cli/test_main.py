"""The command resnet-jax as a user has it after `pip install`: from an empty folder, in a process of its own."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands_support import ROOT
from PIL import Image

import resnet_jax
from resnet_jax import config_file
from resnet_jax.cli.main import COMMANDS
from resnet_jax.config import TrainConfig, default_config
from resnet_jax.errors import ConfigError

TINY = (
    '--config.num_epochs=1',
    '--config.warmup_epochs=0',
    '--config.model_kwargs.num_filters=4',
    '--config.model_kwargs.stage_sizes=1,1',
)

MINE = """
import flax.linen as nn, jax.numpy as jnp, numpy as np, optax
import resnet_jax
from resnet_jax.data import Dataset, Split


class TwoLayers(nn.Module):
    num_classes: int = 10
    width: int = 8
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(self.width, name='hidden')(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes, name='fc')(x)


def load(data_dir, archive):
    label = np.arange(96, dtype=np.int32) % 3
    image = np.repeat(80 * label, 48).reshape(96, 4, 4, 3).astype(np.uint8)
    return Dataset('shades', Split(image[:64], label[:64]), Split(image[64:], label[64:]), ('dark', 'mid', 'bright'),
                   (0.5,) * 3, (0.25,) * 3, 'shades-1')


resnet_jax.register_model('two_layers', TwoLayers)
resnet_jax.register_dataset('shades', load)
resnet_jax.register_optimizer('lion', lambda schedule, config: optax.lion(schedule, weight_decay=config.weight_decay))
"""

CONFIG = """
from resnet_jax import default_config


def get_config():
    config = default_config()
    config.dataset, config.model, config.optimizer = 'shades', 'two_layers', 'lion'
    config.model_kwargs.width = 4
    config.batch_size = config.eval_batch_size = 32
    config.num_epochs, config.warmup_epochs, config.learning_rate, config.crop_padding = 20, 0, 0.02, 0
    return config
"""


def resnet_jax_command(*arguments, folder, code=0, start=(sys.executable, '-m', 'resnet_jax')):
    env = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}
    done = subprocess.run([*start, *map(str, arguments)], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f'{done.stdout}\n{done.stderr}'
    assert 'Traceback' not in done.stdout + done.stderr, done.stderr
    return done


def test_without_a_command_it_lists_them(tmp_path):
    listed = resnet_jax_command('--help', folder=tmp_path).stdout
    assert all(f'\n  {name} ' in listed for name in COMMANDS)
    assert resnet_jax_command(folder=tmp_path, code=2).stdout == listed
    assert resnet_jax_command('--version', folder=tmp_path).stdout.strip() == resnet_jax.__version__
    line = resnet_jax_command('trian', folder=tmp_path, code=2).stderr
    assert line.startswith("error: no command 'trian'; did you mean 'train'?; expected one of train, evaluate")


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_has_help_and_says_what_it_does_not_know(name, tmp_path):
    text = resnet_jax_command(name, '--help', folder=tmp_path).stdout
    assert f'resnet-jax {name}' in text and '--import' in text and '{name}' not in text
    error = resnet_jax_command(name, '--no_such_flag=1', folder=tmp_path, code=2).stderr
    assert error.startswith('error: ') and 'no_such_flag' in error and error.count('\n') == 1


def test_a_run_from_an_empty_folder_by_the_name_of_its_config_and_on_by_its_folder_alone(tmp_path):
    first = resnet_jax_command('train', '--config=quickstart', *TINY, folder=tmp_path).stdout
    folder = tmp_path / 'runs' / 'quickstart'
    assert 'Test accuracy' in first and (folder / 'report.html').is_file()
    before = json.loads((folder / 'config.json').read_text())
    again = resnet_jax_command('train', '--workdir=runs/quickstart', folder=tmp_path).stdout
    assert 'finished' in again and json.loads((folder / 'config.json').read_text()) == before
    longer = ('train', '--workdir=runs/quickstart', '--config.num_epochs=2')
    error = resnet_jax_command(*longer, folder=tmp_path, code=2).stderr
    assert 'num_epochs: 1 -> 2' in error and '--extend' in error
    resnet_jax_command(*longer, '--extend', '--config.learning_rate=0.02', folder=tmp_path, code=2)
    resnet_jax_command(*longer, '--extend', '--config.learning_rate=0.02', '--allow_changes', folder=tmp_path)
    assert json.loads((folder / 'result.json').read_text())['epoch'] == 2
    changes = json.loads((folder / 'changes.json').read_text())
    assert [change['fields']['learning_rate'] for change in changes] == [[before['learning_rate'], 0.02]]
    assert 'changed while training' in (folder / 'report.html').read_text()


def test_an_unknown_config_names_those_that_are_there(tmp_path):
    error = resnet_jax_command('train', '--config=resnet81', folder=tmp_path, code=2).stderr
    assert 'did you mean' in error and 'resnet18' in error
    error = resnet_jax_command('train', 'num_epochs=3', '--config=quickstart', folder=tmp_path, code=2).stderr
    assert "unexpected argument 'num_epochs=3'; expected --config.num_epochs=3" in error


def test_a_config_to_start_from(tmp_path):
    resnet_jax_command('train', '--init_config=mine.py', folder=tmp_path)
    config = TrainConfig.from_mapping(config_file.load_config(str(tmp_path / 'mine.py')))
    assert config.model == 'resnet20' and config.seed == default_config().seed
    error = resnet_jax_command('train', '--init_config=mine.py', folder=tmp_path, code=2).stderr
    assert 'mine.py exists' in error


def test_own_parts_work_with_every_command_and_a_run_never_imports_them_by_itself(tmp_path):
    (tmp_path / 'my_parts.py').write_text(MINE)
    (tmp_path / 'mine.py').write_text(CONFIG)
    error = resnet_jax_command('train', '--config=mine.py', folder=tmp_path, code=2).stderr
    assert 'two_layers' in error or 'shades' in error or 'lion' in error
    own = '--import=my_parts'
    trained = resnet_jax_command('train', '--config=mine.py', own, folder=tmp_path).stdout
    accuracy = json.loads((tmp_path / 'runs' / 'mine' / 'result.json').read_text())['accuracy']
    assert trained.startswith('two_layers, 211 parameters') and f'Test accuracy {100 * accuracy:.2f} %' in trained

    # The run names the module; nothing imports it unless the user says so.
    run = '--workdir=runs/mine'
    for command in (['evaluate', run], ['predict', run, 'a.png'], ['export', run, '--out=exported'], ['train', run]):
        assert '--import=my_parts' in resnet_jax_command(*command, folder=tmp_path, code=2).stderr

    assert f'{100 * accuracy:.2f} %' in resnet_jax_command('evaluate', run, own, folder=tmp_path).stdout
    Image.fromarray(np.full((4, 4, 3), 160, np.uint8)).save(tmp_path / 'a.png')
    predicted = resnet_jax_command('predict', run, own, 'a.png', folder=tmp_path).stdout
    assert all(name in predicted for name in ('dark', 'mid', 'bright'))
    resnet_jax_command('export', run, own, '--out=exported', folder=tmp_path)
    resnet_jax_command('convert', run, own, '--out=mine.safetensors', folder=tmp_path)
    assert 'finished' in resnet_jax_command('train', run, own, folder=tmp_path).stdout
    assert 'two_layers' in resnet_jax_command('models', own, folder=tmp_path).stdout
    error = resnet_jax_command('models', '--import=not_there', folder=tmp_path, code=2).stderr
    assert "module 'not_there' cannot be imported" in error


def test_config_files_have_one_loader(tmp_path):
    assert 'resnet18' in config_file.packaged_configs() and 'classics' in config_file.packaged_configs('study')
    assert config_file.find('quickstart').samefile(ROOT / 'configs' / 'quickstart.py')
    (tmp_path / 'none.py').write_text('x = 1\n')
    with pytest.raises(ConfigError, match=r'AttributeError.*expected get_config\(\) in it'):
        config_file.load_config(str(tmp_path / 'none.py'))
    (tmp_path / 'other.py').write_text('def get_config(): return {}\n')
    with pytest.raises(ConfigError, match=r'returned dict, expected an ml_collections.ConfigDict'):
        config_file.load_config(str(tmp_path / 'other.py'))


@pytest.mark.slow
def test_a_wheel_holds_what_the_commands_need(tmp_path):
    """Installed into an environment of its own, beside the libraries of this one, and used from an empty folder."""
    build = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--quiet', '--wheel-dir', tmp_path / 'wheel', ROOT]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = (tmp_path / 'wheel').iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    for name in ('py.typed', 'configs/resnet18.py', 'configs/study/classics.py', 'report/report.css'):
        assert f'resnet_jax/{name}' in names
    assert any(name.startswith('resnet_jax/report/templates/') for name in names)
    assert any(name.startswith('resnet_jax/ops/kernels/') and name.endswith('.c') for name in names)
    assert not any(name.startswith(('tests/', 'configs/', 'bin/')) for name in names)
    env, empty = tmp_path / 'env', tmp_path / 'empty'
    empty.mkdir()
    subprocess.run([sys.executable, '-m', 'venv', env], check=True, timeout=300)
    subprocess.run([env / 'bin' / 'pip', 'install', '--quiet', '--no-deps', wheel], check=True, timeout=300)
    (site,) = env.glob('lib/python*/site-packages')
    # The libraries, without the checkout that an editable installation of this environment points to.
    libraries = next(path for path in sys.path if path.endswith('site-packages'))
    (site / 'libraries.pth').write_text(f'{libraries}\n')
    start = (env / 'bin' / 'resnet-jax',)
    where = subprocess.run(
        [env / 'bin' / 'python', '-c', 'import resnet_jax; print(resnet_jax.__file__)'],
        cwd=empty, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(env)
    resnet_jax_command('train', '--config=quickstart', *TINY, folder=empty, start=start)
    assert 'accuracy' in resnet_jax_command('evaluate', '--workdir=runs/quickstart', folder=empty, start=start).stdout
    assert 'entries' in resnet_jax_command('study', '--config=classics', '--dry_run', folder=empty, start=start).stdout
