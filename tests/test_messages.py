"""Messages of the library name arguments and fields; a command adds its flags."""

import ast
import re
from pathlib import Path

import pytest
from python_source import parse

PACKAGE = Path(__file__).parent.parent / 'resnet_jax'
FILES = [path for path in sorted(PACKAGE.rglob('*.py')) if path.relative_to(PACKAGE).parts[0] not in ('cli', 'configs')]
COMMAND = re.compile(r'--\w+|resnet-jax \w+|bin/\w+\.py|\bsame command\b')
OF_OTHER_PROGRAMS = {'docker run --shm-size', 'xprof --logdir', '--xla_gpu_deterministic_ops'}


def messages(tree):
    """Yields the texts of what is raised and of what a logger is told."""
    for node in ast.walk(tree):
        logs = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == 'logger'
        error = isinstance(node, ast.Call) and re.search(r'Error$', ast.unparse(node.func))
        if isinstance(node, ast.Raise) or logs or error:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_they_name_no_flag_and_no_command(path):
    for line, text in messages(parse(path)):
        for known in OF_OTHER_PROGRAMS:
            text = text.replace(known, '')
        assert not COMMAND.search(text), f'line {line}: {text}'


def test_the_search_finds_them():
    actual = list(messages(ast.parse("raise ConfigError(f'no {name}; expected --host=NAME')\nlogger.info('--a %s', name)")))
    assert [bool(COMMAND.search(text)) for _, text in actual if '--' in text] == [True, True, True]
