"""Config files and study files: Python files with `get_config()` or `get_study()`, by path or packaged name."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError, UserError, did_you_mean

_PACKAGED = Path(__file__).parent / 'configs'


def packaged_configs(kind: str = '') -> list[str]:
    """Returns the names of the packaged configs, or of the packaged studies if `kind` is 'study'."""
    return sorted(path.stem for path in (_PACKAGED / kind).glob('[!_]*.py'))


def find(name: str, kind: str = '') -> Path:
    """Returns the path of a config file.

    Args:
      name: a path that ends in .py, or the name of a packaged file: 'resnet18', or for studies 'paper' or 'study/paper'.
      kind: '' for configs, 'study' for studies.

    Raises:
      ConfigError: there is no such file; lists the existing files.
    """
    path, names = Path(os.path.expanduser(name)), packaged_configs(kind)  # noqa: PTH111 (Path's raises without a home)
    if path.suffix != '.py' and path.parent in (Path(), Path(kind)):
        if path.name not in names:
            expected = f'expected a path ending in .py, or one of {", ".join(names)}'
            raise ConfigError(f'no {kind or "config"} {name!r}; {expected}{did_you_mean(path.name, names)}')
        return _PACKAGED / kind / f'{path.name}.py'
    if path.suffix == '.py' and path.is_file():
        return path
    files = sorted(str(file) for file in path.parent.glob('[!_]*.py'))
    expected = f'expected one of {", ".join(files or names)}'
    hint = f'; did you mean {path.stem!r}, which comes with the package?' if path.stem in names else ''
    raise ConfigError(f'no config file {name!r}; {expected}{hint}')


def load(path: Path, function: str) -> Any:
    """Runs a file, calls its function `function` and returns the result.

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
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise ConfigError(f'{path} could not be read ({type(error).__name__}: {error}); expected {function}() in it') from None


def load_config(name: str) -> ConfigDict:
    """Returns the config of a path or name.

    Raises:
      ConfigError: see `find` and `load`; or the result is not a ConfigDict.
    """
    path = find(name)
    config = load(path, 'get_config')
    if not isinstance(config, ConfigDict):
        raise not_a_config(path, type(config).__name__)
    return config


def not_a_config(path: str | Path, kind: str) -> ConfigError:
    """Returns the error for a file whose get_config() returned an object of another class, `kind`."""
    return ConfigError(f'{path}: get_config() returned {kind}, expected an ml_collections.ConfigDict; correct the file')
