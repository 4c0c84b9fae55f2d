"""How a run is started without a config of one's own: --init_config, and --workdir alone."""

import json

import pytest
from commands_support import error_line
from installed import TINY, resnet_jax
from permissions import closed

from resnet_jax import config_file
from resnet_jax.cli.train import prepare
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ResourceError


def test_a_config_to_start_from_is_written_and_valid(tmp_path):
    done = resnet_jax(tmp_path, 'train', '--init_config=mine.py')
    assert done.stdout == 'mine.py: change it, then resnet-jax train --config=mine.py\n'
    assert [path.name for path in tmp_path.iterdir()] == ['mine.py']
    assert TrainConfig.from_mapping(config_file.load_config(str(tmp_path / 'mine.py'))).num_epochs == 100
    (tmp_path / 'mine.py').write_text('precious')
    assert 'mine.py exists' in error_line(resnet_jax(tmp_path, 'train', '--init_config=mine.py', code=2))
    assert (tmp_path / 'mine.py').read_text() == 'precious'


@pytest.mark.parametrize(('path', 'code', 'text'), [('mine', 2, 'ends in .py'), ('no/mine.py', 5, 'cannot be written')])
def test_a_place_where_no_config_can_be_is_refused(path, code, text, tmp_path):
    assert text in error_line(resnet_jax(tmp_path, 'train', f'--init_config={path}', code=code))
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_run_folder_alone_continues_its_run(tmp_path):
    resnet_jax(tmp_path, 'train', '--config=quickstart', '--workdir=a run', '--config.model_kwargs.num_filters=4', *TINY)
    config = json.loads((tmp_path / 'a run' / 'config.json').read_text())
    longer = resnet_jax(tmp_path, 'train', '--workdir', 'a run', '--config.num_epochs=3', '--extend').stdout
    assert 'Epoch 3: ' in longer and 'Epoch 2: ' not in longer
    assert json.loads((tmp_path / 'a run' / 'config.json').read_text()) == {**config, 'num_epochs': 3}
    line = error_line(resnet_jax(tmp_path, 'train', '--workdir=a run', '--config.milestones=(0.1,)', code=2))
    assert 'a run holds a run of another config (milestones: ' in line and 'continue with --allow_changes' in line


def test_a_folder_without_a_run_is_named(tmp_path):
    line = error_line(resnet_jax(tmp_path, 'train', '--workdir=nowhere', code=2))
    assert line.startswith('error: no config given, and nowhere holds no run to continue; expected --config=NAME or FILE')
    assert 'no config given; expected --config=' in error_line(resnet_jax(tmp_path, 'train', code=2))


def test_a_folder_that_cannot_be_entered_is_named(tmp_path):
    with closed(tmp_path), pytest.raises(ResourceError, match=r'run/config\.json cannot be read: Permission denied'):
        prepare(['--config=quickstart', f'--workdir={tmp_path}/run'])


@pytest.mark.parametrize(
    ('content', 'code', 'text'),
    [
        ('{', 3, 'runs/learning_rate=0.1/config.json is not valid JSON'),
        ('[]', 3, 'runs/learning_rate=0.1/config.json is not a config'),
        ('{"flip": 3}', 2, "config field 'flip' is 3; expected True or False"),
        ('{"flipp": 3}', 2, "unknown config field 'flipp'; did you mean 'flip'?"),
        ('{"flip": false, "alternating_flip": true}', 2, 'expected --config.flip=True with it'),
    ],
)
def test_a_damaged_config_is_one_line(content, code, text, tmp_path):
    """In a folder of a sweep, whose name looks like a field: it is not taken for one."""
    folder = tmp_path / 'runs' / 'learning_rate=0.1'
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(content)
    line = error_line(resnet_jax(tmp_path, 'train', '--workdir=runs/learning_rate=0.1', code=code))
    assert text in line and len(line) < 250


def test_a_folder_named_like_an_argument_keeps_its_name(tmp_path):
    folder = tmp_path / 'runs' / 'extend'
    (folder / 'checkpoints' / '3').mkdir(parents=True)
    config = TrainConfig.from_mapping(config_file.load_config('quickstart'))
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    line = error_line(resnet_jax(tmp_path, 'train', '--workdir=runs/extend', '--config.num_epochs=99', code=2))
    assert line.startswith('error: runs/extend holds a run of another config (num_epochs: ')
    assert line.endswith('; continue with --extend, or choose another run folder, or delete it')
