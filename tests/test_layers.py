"""Imports only point down. What a module may import of the package; anything else is an arrow pointing up."""

import ast
import functools
import re
from pathlib import Path

import pytest
from python_source import parse

ROOT = Path(__file__).parent.parent
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted((ROOT / 'resnet_jax').rglob('*.py'))
}
# Of the benchmark, the only users.
TORCH = ('peer', 'torch_classics', 'torch_networks', 'torch_pictures', 'torch_resnets', 'torch_speedrun')
LAYERS = {  # a module belongs to the longest prefix of its name that is here; errors, runtime and typing are below all others
    'resnet_jax': (),
    'resnet_jax.errors': (),
    'resnet_jax.typing': (),
    'resnet_jax.runtime': ('runtime',),
    'resnet_jax.plugins': (),
    'resnet_jax.config': ('config_checks',),
    'resnet_jax.config_checks': (),
    'resnet_jax.config_changes': ('config',),
    'resnet_jax.config_file': (),
    'resnet_jax.configs': ('config', 'configs', 'data', 'study'),
    'resnet_jax.significance': (),
    'resnet_jax.ops': ('ops',),
    'resnet_jax.models': ('ops', 'models'),
    'resnet_jax.data': ('config', 'data'),
    'resnet_jax.weights': ('config', 'data', 'models', 'weights'),
    'resnet_jax.runs': ('config', 'config_changes', 'plugins', 'runs'),
    'resnet_jax.network': ('plugins', 'config', 'models', 'data', 'runs'),
    'resnet_jax.forward': ('data', 'models'),
    'resnet_jax.classifier': ('config', 'network', 'forward', 'models', 'data', 'weights'),
    'resnet_jax.report': ('significance', 'runs', 'report'),
    'resnet_jax.evaluation': (
        'classifier',
        'config',
        'config_changes',
        'ops',
        'significance',
        'models',
        'data',
        'runs',
        'report',
        'evaluation',
    ),
    'resnet_jax.training': (
        *('classifier', 'forward', 'network', 'config', 'ops', 'models', 'data', 'weights', 'runs', 'report', 'evaluation'),
        *('plugins', 'config_changes', 'config_checks', 'training'),
    ),
    'resnet_jax.nnx': ('models',),
    'resnet_jax.export': ('classifier', 'data', 'runs', 'export'),
    'resnet_jax.serve': ('classifier', 'config', 'data', 'runs', 'evaluation', 'serve'),
    'resnet_jax.benchmark': (
        'plugins',
        'config',
        'config_file',
        'ops',
        'significance',
        'models',
        'data',
        'evaluation',
        'training',
        'nnx',
        'benchmark',
    ),
    'resnet_jax.study': (
        'plugins',
        'config_changes',
        'config_checks',
        'config',
        'config_file',
        'data',
        'report',
        'runs',
        'evaluation',
        'training',
        'benchmark',
        'study',
    ),
    'resnet_jax.cli': (
        *(
            'cli',
            'plugins',
            'config',
            'config_file',
            'classifier',
            'data',
            'models',
            'runs',
            'report',
            'evaluation',
            'training',
        ),
        *('weights', 'export', 'serve', 'study', 'benchmark'),
    ),
    'resnet_jax.__main__': ('cli',),
}
BELOW_ALL = {'errors', 'runtime', 'typing'}
# Classifier.finetune, which users call, imports training when it is called.
UPWARD = ('resnet_jax.classifier', 'resnet_jax.training.loop')


tree = functools.cache(parse)


def nodes(path):
    """Yields a file's nodes but those that only type checkers see."""
    waiting = [tree(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING'):
            waiting += ast.iter_child_nodes(node)


def imports(path):
    """Returns the full names of all modules and members that a file imports, wherever in it."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def own_imports(path):
    """Returns the modules of the package that a file imports, but not what UPWARD allows."""
    collected = set()
    for name in imports(path):
        while name.startswith('resnet_jax') and name not in MODULES:
            name = name.rpartition('.')[0]
        if name in MODULES and (path, name) != (MODULES[UPWARD[0]], UPWARD[1]):
            collected.add(name)
    return collected


@pytest.mark.parametrize('name', MODULES)
def test_imports_point_down(name):
    allowed = LAYERS[max((layer for layer in LAYERS if f'{name}.'.startswith(f'{layer}.')), key=len)]
    for imported in own_imports(MODULES[name]) - {'resnet_jax'}:
        assert imported.split('.')[1] in {*allowed, *BELOW_ALL}, f'{name} imports {imported}'
        callers = name.startswith('resnet_jax.cli.') or name == 'resnet_jax.training.seeds'  # many runs
        assert callers or imported != 'resnet_jax.training.loop', (
            f'{name} imports the loop, which only commands and several seeds do'
        )


def test_one_method_imports_a_layer_above():
    classifier, above = UPWARD
    importing = {
        node.name
        for node in ast.walk(tree(MODULES[classifier]))
        if isinstance(node, ast.FunctionDef) and any(getattr(inner, 'module', '') == above for inner in ast.walk(node))
    }
    at_top = {getattr(node, 'module', '') for node in tree(MODULES[classifier]).body}
    assert importing == {'finetune'} and above not in at_top


@pytest.mark.parametrize('name', [name for name in MODULES if not re.match(r'resnet_jax$|resnet_jax\.configs', name)])
def test_of_the_root_only_the_version_and_the_place_are_used(name):
    """What the root offers lies in all layers; a module imports it from where it is. Recipes are written like a user's."""
    for node in nodes(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.module == 'resnet_jax':
            assert all(f'resnet_jax.{alias.name}' in MODULES for alias in node.names), f'line {node.lineno}'
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'resnet_jax':
            assert node.attr in ('__version__', '__file__') or f'resnet_jax.{node.attr}' in MODULES, f'line {node.lineno}'
        elif isinstance(node, ast.Import):
            assert all(alias.name != 'resnet_jax' or not alias.asname for alias in node.names), f'line {node.lineno}'


def test_no_cycles():
    graph = {name: own_imports(path) - {name} for name, path in MODULES.items()}
    while leaves := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f'modules that import each other: {sorted(graph)}'


def users(package):
    """Returns the modules that import a package or a part of it."""
    return {
        name for name, path in MODULES.items() if any(f'{imported}.'.startswith(f'{package}.') for imported in imports(path))
    }


def test_who_may_know_what():
    assert all(name.startswith('resnet_jax.data.') for name in users('tensorflow_datasets'))
    of_data = {name for name in users('jax') if name.startswith('resnet_jax.data')}
    assert of_data and all(name.startswith('resnet_jax.data.augment.') for name in of_data)
    assert not any(name.startswith('resnet_jax.report') for name in users('jax') | users('flax') | users('optax'))
    assert all(name.startswith('resnet_jax.cli.') or name == 'resnet_jax.data.workers' for name in users('absl'))
    assert users('grain') == {'resnet_jax.data.workers'}
    assert users('orbax') == {'resnet_jax.runs.checkpoint'}
    assert not users('tensorflow')
    assert users('torch') == {f'resnet_jax.benchmark.{name}' for name in TORCH}


def test_pmap_is_in_one_module():
    calls = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == 'pmap'
    }
    assert calls == {'resnet_jax.runtime.devices'}


def test_no_dumping_grounds():
    assert not {name.rpartition('.')[2] for name in MODULES} & {'utils', 'util', 'common', 'helpers', 'misc'}


@pytest.mark.parametrize('path', sorted((ROOT / 'bin').glob('*.py')), ids=lambda path: path.stem)
def test_commands_are_thin(path):
    assert len(path.read_text().splitlines()) < 10
    assert own_imports(path) == {'resnet_jax.cli.main'}
