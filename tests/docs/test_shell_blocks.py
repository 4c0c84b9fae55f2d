"""Every command in the documents exists, with these flags and values; those that take seconds are run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands_support import ROOT, finished
from commands_support import command as options_of
from document_blocks import blocks, commands, languages, ours
from document_folder import write_files

from resnet_jax.cli import command as cli
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.models import ResNet
from resnet_jax.weights import save_torch

pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # of ml_collections, for config files

SHELL = [block for block in blocks('', 'bash') if block.page.name != 'measurements.md']  # which has those of EVIDENCE
EVIDENCE = tomllib.loads((ROOT / 'docs' / 'evidence.toml').read_text())
EXTRAS = {*tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']}
_OF_A_SHELL = {'jupyter', 'sleep', 'exit', 'sbatch', 'scontrol', '.', 'hf', 'git', 'tensorboard', 'curl'}
# Flags that make a run of seconds of any recipe.
_QUICK = (
    '--config.model=resnet8',
    '--config.model_kwargs.num_filters=4',
    '--config.model_kwargs.stage_sizes=1,1',
    '--config.num_epochs=1',
    '--config.warmup_epochs=0.5',
    '--config.batch_size=8',
    '--config.base_batch_size=0',
    '--config.learning_rate=0.01',
    '--config.optimizer=sgd',
    '--config.dtype=float32',
)
# Why a command is not run: it needs the network, other machines, data that are not here, hours, or dies as it should.
_NOT_RUN = (
    r'hf://|timm/|akamaster/|chenyaofo/',
    r'--coordinator_address|--distributed',
    r'tfds:|parquet:|data_archive|data_dir|imagenet_resnet50|TFDS',
    r'^serve',
    r'--cifar10',
    r'^benchmark|^study(?!.*--(dry_run|report_only))|--corruptions|--seeds|--import|^study --config=paper',
    r'--weights=resnet20.th',  # on CIFAR-10
)


def check(command, folder):
    """Checks one command as far as that is possible without running it."""
    name, *arguments = command
    if parts := ours(command):
        check_ours(*parts)
    elif name == 'make':
        assert all(
            re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.M) for target in arguments if '=' not in target
        )
    elif name == 'pip':
        for extras in re.findall(r'\[(.*)\]', arguments[-1]):
            assert {*extras.split(',')} <= EXTRAS
    elif name.split('/')[-1].startswith('python'):
        if arguments[0] == '-m':
            assert arguments[1] in ('venv', 'pytest')
            assert all((folder / word).exists() for word in arguments[2:] if word.startswith('tests/'))
        else:
            assert (folder / arguments[0]).is_file()
    else:
        assert name in _OF_A_SHELL, f'unknown command {name!r}'


def check_ours(verb, arguments):
    """Parses the arguments of a command of this package as it does."""
    module = importlib.reload(importlib.import_module(f'resnet_jax.cli.{verb}'))  # with new flags
    cli._parse(module, [argument for argument in arguments if argument != '--help'], f'resnet-jax {verb}')
    if module.FLAGS.takes_config and module.FLAGS['config'].present:
        TrainConfig.from_mapping(cli.load_config(module.FLAGS)[1])


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, 'argv', [*sys.argv])


@pytest.mark.usefixtures('registrations')
@pytest.mark.parametrize('block', SHELL, ids=str)
def test_commands_of_a_block_are_what_the_parser_takes(block, files):
    collected = commands(block.text)
    assert collected
    for command in collected:
        check(command, files)


@pytest.mark.usefixtures('registrations')
@pytest.mark.parametrize('name', [name for name in EVIDENCE if name not in ('machines', 'versions')])
def test_commands_of_a_measurement_are_what_the_parser_takes(name, files):
    for text in (EVIDENCE[name]['command'], *EVIDENCE[name].get('more_commands', ())):
        for command in commands(text):
            check(command, files)


def test_a_wrong_flag_in_a_document_would_be_found(files, registrations):
    for text in (
        'resnet-jax train --confg=resnet18',
        'resnet-jax train --config=resnet18 --config.epochs=3',
        'resnt-jax train',
    ):
        with pytest.raises((ConfigError, AssertionError)):
            check(*commands(text), files)


@pytest.mark.parametrize('block', [block for block in SHELL if block.text.count('\n') > 1], ids=str)
def test_blocks_are_shell(block):
    done = subprocess.run(['bash', '-n'], input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_no_block_is_in_a_language_that_no_test_knows():
    assert languages() <= {'', 'bash', 'python', 'text', '{eval-rst}', '{toctree}', '{image} static/report.png'}


@pytest.fixture(scope='module')
def real_folder(tmp_path_factory):
    """A folder as `folder`, for commands in processes of their own, with whole networks."""
    folder = tmp_path_factory.mktemp('commands')
    write_files(folder)
    quick = [*_QUICK, '--config.dataset=digits', '--config.batch_size=128']
    for seed in (0, 1):
        execute('train', ['--config=quickstart', *quick, f'--config.seed={seed}', f'--workdir=runs/seed{seed}'], folder)
    for seed, name in enumerate(('quickstart', 'b', 'resnet18', 'images', 'a', 'seed2')):
        shutil.copytree(folder / 'runs' / f'seed{seed % 2}', folder / 'runs' / name)
    model = ResNet(stage_sizes=(3, 3, 3), num_filters=16, shortcut='identity')  # resnet20, which may be smaller here
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    save_torch(folder / 'resnet20.th', model, jax.tree.map(lambda array: np.ones(array.shape, array.dtype), shapes))
    return folder


def execute(verb, arguments, folder):
    script = f'{verb}.py' if verb != 'models' else '../resnet_jax/cli/main.py'
    options = options_of(script, *([verb] if verb == 'models' else []), *arguments)
    options['cwd'], options['env']['PYTHONPATH'] = folder, os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return finished(options, 0, 300, new_process=False)


def quickened(verb, arguments):
    """Returns the arguments with flags after them that make the command short."""
    if verb != 'train' or any(argument.startswith('--init_config') for argument in arguments):
        return arguments
    mine = [argument for argument in arguments if argument.startswith(('--config.dataset=folder', '--workdir'))]
    dataset = [] if any('folder:' in argument for argument in mine) else ['--config.dataset=digits', '--config.batch_size=128']
    workdir = [] if any('--workdir' in argument for argument in mine) else ['--workdir=runs/of_the_documents']
    return [*arguments, *_QUICK, *dataset, *workdir]


def to_run():
    """Returns the commands that are run, each once, with the block that has it first."""
    collected = {}
    for block in SHELL:
        for command in commands(block.text):
            if parts := ours(command):
                text = ' '.join([parts[0], *parts[1]])
                if not any(re.search(pattern, text) for pattern in _NOT_RUN):
                    collected.setdefault((parts[0], *parts[1]), str(block))
    return collected


@pytest.mark.slow
@pytest.mark.parametrize('command', to_run(), ids=' '.join)
def test_a_command_runs(command, real_folder):
    verb, *arguments = command
    flag = {'train': '--workdir=', 'export': '--out='}.get(verb, 'none')
    made = [argument.removeprefix(flag) for argument in arguments if argument.startswith(flag)]
    for name in ('runs/of_the_documents', *made):
        shutil.rmtree(real_folder / name, ignore_errors=True)
    execute(verb, quickened(verb, arguments), real_folder)
