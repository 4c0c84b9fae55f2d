"""How a command starts: what it says before JAX is imported, and what the help of train says."""

import subprocess
import sys

import pytest
from commands_support import error_line
from installed import resnet_jax

from resnet_jax.cli.main import COMMANDS
from resnet_jax.config import fields
from resnet_jax.runtime import huge_pages


def run_without_jax(code):
    """Runs code in a process that cannot import JAX, Flax or NumPy."""
    blocked = 'import sys; sys.modules.update(dict.fromkeys(("jax", "flax", "numpy")))\n'
    return subprocess.run([sys.executable, '-c', blocked + code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize('verb', COMMANDS)
def test_help_and_a_wrong_flag_come_without_jax(verb):
    call = f'from resnet_jax.cli.main import main; sys.argv = ["resnet-jax", "{verb}", FLAG]; main()'
    done = run_without_jax(call.replace('FLAG', '"--help"'))
    assert (done.returncode, done.stderr) == (0, '') and 'Flags:\n  --import: ' in done.stdout
    assert '{name}' not in done.stdout and 'repeat this option' not in done.stdout
    done = run_without_jax(call.replace('FLAG', '"--imprt=a"'))
    assert done.returncode == 2 and 'import' in error_line(done) and 'Traceback' not in done.stderr


def test_a_wrong_field_is_told_without_jax():
    call = (
        'from resnet_jax.cli.main import main; sys.argv = ["", "train", "--config=quickstart", "--config.flipp=True"]; main()'
    )
    done = run_without_jax(call)
    assert done.returncode == 2 and "unknown config field 'flipp'; did you mean 'flip'?" in error_line(done)


def test_several_commands_can_be_imported_in_one_process():
    modules = ', '.join(f'resnet_jax.cli.{verb}' for verb in COMMANDS)
    done = run_without_jax(f'import {modules}; print(len(resnet_jax.cli.train.FLAGS["workdir"].help) > 0)')
    assert (done.returncode, done.stdout, done.stderr) == (0, 'True\n', '')


def test_the_help_of_train_has_every_field(tmp_path):
    text = ' '.join(resnet_jax(tmp_path, 'train', '--help').stdout.split())
    for field in fields():
        check, default = field.metadata['check'], {} if field.name.endswith('_kwargs') else field.default
        expected = ' | '.join(check.choices) or check.expected
        assert f'{field.name}: {field.metadata["meaning"]} Expected {expected}; default {default!r}.' in text


def test_a_reader_of_the_help_that_leaves_early_is_no_error():
    command = f'set -o pipefail; {sys.executable} -m resnet_jax train --help | head -n 1'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith('Trains a config') and done.stderr == ''


@pytest.mark.skipif(not huge_pages.environment(), reason='huge pages are not on request')
@pytest.mark.parametrize('verb', ['train', 'evaluate'])
def test_the_commands_that_compute_use_huge_pages(verb, tmp_path):
    (tmp_path / 'shows.py').write_text("import os\nprint(os.environ.get('GLIBC_TUNABLES'))\n")
    done = resnet_jax(tmp_path, verb, '--import=shows', code=2)
    assert done.stdout == f'{huge_pages.TUNABLE}\n'


def test_an_interrupt_within_an_import_ends_the_command_whatever_the_import_makes_of_it(tmp_path):
    lines = (
        'import os, signal, time',
        'try:',
        ' os.kill(os.getpid(), signal.SIGINT)',
        ' time.sleep(5)',
        'except BaseException: pass',
    )
    body = '\n'.join(lines)
    (tmp_path / 'catches_all.py').write_text(body)
    done = resnet_jax(tmp_path, 'models', '--import=catches_all', code=130)
    assert (done.stdout, done.stderr) == ('', 'Interrupted.\n')
