"""Config files and study files: Python files with `get_config()` or `get_study()`, by path or by the name of one that comes
with the package."""

import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError, UserError, did_you_mean

_PACKAGED = Path(__file__).parent / 'configs'


def packaged_configs(kind: str = '') -> list[str]:
    """Returns the names of the configs in the package; with the kind 'study' of the studies."""
    return sorted(path.stem for path in (_PACKAGED / kind).glob('*.py') if path.name != '__init__.py')


def find(name: str, kind: str = '') -> Path:
    """Returns the path of a config file.

    Args:
      name: a path, or a name such as 'resnet18' of one in the package.
      kind: '' for configs, 'study' for studies.

    Raises:
      ConfigError: there is no such file; lists what there is.
    """
    path = Path(name)
    if path.suffix == '.py' or len(path.parts) > 1:
        if path.is_file():
            return path
        folder = path.parent if path.parent.is_dir() else Path()
        files = sorted(str(folder / file.name) for file in folder.glob('*.py') if file.name != '__init__.py')
        expected = f'expected one of {", ".join(files)}' if files else 'expected a Python file with a get_config() function'
        raise ConfigError(f'no config file {name!r}; {expected}')
    names = packaged_configs(kind)
    if name not in names:
        hint = did_you_mean(name, names)
        raise ConfigError(f'no config {name!r}{hint}; expected a path ending in .py, or one of {", ".join(names)}')
    return _PACKAGED / kind / f'{name}.py'


def load(path: Path, function: str) -> Any:
    """Runs a file and returns what its function returns.

    Raises:
      ConfigError: the file fails, or has no such function.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f'{path} is not a Python file; expected one with {function}()')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)()
    except UserError:
        raise
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f'{path} could not be read ({type(error).__name__}: {error}); expected {function}() in it') from None


def load_config(name: str) -> ConfigDict:
    """Returns the config of a path or name.

    Raises:
      ConfigError: see `find` and `load`; or it is no ConfigDict.
    """
    path = find(name)
    config = load(path, 'get_config')
    if not isinstance(config, ConfigDict):
        raise ConfigError(f'{path}: get_config() returned {type(config).__name__}, expected an ml_collections.ConfigDict')
    return config
