import copy
import importlib
import pkgutil
import subprocess
import sys

import pytest
from absl import flags

from resnet_jax import cli

SCRIPT = """
import signal, sys
from resnet_jax import errors
from resnet_jax.cli import command

FLAGS = command.Flags()

def main(arguments):
    {body}

command.run(sys.modules['__main__'], sys.argv[1:], 'test')
"""


def run(body, *arguments):
    return subprocess.run(
        [sys.executable, '-c', SCRIPT.format(body=body), *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        ('ConfigError', 2),
        ('InputFileError', 3),
        ('DivergedError', 4),
        ('ResourceError', 5),
        ('RunFolderInUseError', 6),
    ],
)
def test_each_error_has_its_exit_code_and_is_one_line(error, code):
    done = run(f"raise errors.{error}('what is wrong;\\n  what was expected')")
    assert (done.returncode, done.stderr) == (code, 'error: what is wrong; what was expected\n')


@pytest.mark.parametrize(('number', 'code'), [('SIGINT', 130), ('SIGTERM', 143)])
def test_an_interrupted_run_says_that_it_is_saved(number, code):
    done = run(f'raise errors.Interrupted(signal.{number})')
    assert done.returncode == code and 'the state is saved' in done.stderr


def test_ctrl_c_elsewhere_shows_no_traceback():
    done = run('raise KeyboardInterrupt')
    assert (done.returncode, done.stderr) == (130, 'Interrupted.\n')


@pytest.mark.parametrize(
    ('body', 'text'),
    [
        ("open('/nowhere/a.json')", '/nowhere/a.json: No such file or directory; '),
        ("raise OSError(5, 'Input/output error', 'a.npy')", 'a.npy: Input/output error; '),
        ('raise MemoryError', 'out of memory; '),
    ],
)
def test_what_the_system_refuses_is_one_line(body, text):
    done = run(body)
    assert done.returncode == 5 and done.stderr.startswith(f'error: {text}') and done.stderr.count('\n') == 1


def test_a_bug_shows_its_traceback():
    done = run('raise ZeroDivisionError')
    assert done.returncode == 1 and 'Traceback' in done.stderr


def test_success_and_positional_arguments():
    done = run('print(arguments)', 'a', 'b')
    assert (done.returncode, done.stdout) == (0, "['a', 'b']\n")


def test_an_unknown_flag_names_the_nearest():
    done = run('pass', '--imprt=a')
    assert done.returncode == 2 and 'import' in done.stderr and done.stderr.count('\n') == 1


def commands():
    modules = [importlib.import_module(f'resnet_jax.cli.{module.name}') for module in pkgutil.iter_modules(cli.__path__)]
    return [module for module in modules if hasattr(module, 'FLAGS')]


FLOATS = [(one, name) for one in commands() for name in one.FLAGS if one.FLAGS[name].flag_type() == 'float']


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf', '1e400'])
@pytest.mark.parametrize(('one', 'name'), FLOATS, ids=[f'{one.__name__}-{name}' for one, name in FLOATS])
def test_a_number_that_is_not_finite_is_refused_by_every_command(one, name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        copy.deepcopy(one.FLAGS)(['test', f'--{name}={value}'])


@pytest.mark.parametrize(('one', 'name'), FLOATS, ids=[f'{one.__name__}-{name}' for one, name in FLOATS])
def test_no_number_is_so_large_that_computing_with_it_overflows(one, name):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        copy.deepcopy(one.FLAGS)(['test', f'--{name}={sys.float_info.max}'])


def test_a_size_of_images_that_overflows_is_refused():
    with pytest.raises(flags.IllegalFlagValueError, match='image_size'):
        copy.deepcopy(importlib.import_module('resnet_jax.cli.evaluate').FLAGS)(['test', '--image_size=1' + 30 * '0'])


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        [
            'bash',
            '-c',
            'set -o pipefail; "$0" -c "$1" | head -n 1',
            sys.executable,
            SCRIPT.format(body='print("line\\n" * 99999)'),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == 'line\n' and 'Traceback' not in done.stderr
