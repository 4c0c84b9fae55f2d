"""The command resnet-jax as a user has it after `pip install`: from an empty folder, in a process of its own."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands_support import ROOT
from installed import quick_to_compile
from sampling import sample

import resnet_jax
from resnet_jax.cli.main import COMMANDS

TINY = (
    '--config.num_epochs=1',
    '--config.warmup_epochs=0',
    '--config.model_kwargs.num_filters=4',
    '--config.model_kwargs.stage_sizes=1,',
)


def resnet_jax_command(*arguments, folder, code=0, start=(sys.executable, '-m', 'resnet_jax')):
    env = {**quick_to_compile(), 'JAX_NUM_CPU_DEVICES': '1'}
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


@pytest.mark.parametrize('name', sample(COMMANDS, 4))  # test_before_jax.py calls each of them
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


@pytest.mark.slow
def test_a_wheel_holds_what_the_commands_need(tmp_path, monkeypatch):
    """Installed into an environment of its own, beside the libraries of this one, and used from an empty folder."""
    monkeypatch.delenv('PYTHONPATH', raising=False)
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
    assert (
        '30 of 30 runs are left'
        in resnet_jax_command('study', '--config=classics', '--dry_run', folder=empty, start=start).stdout
    )
