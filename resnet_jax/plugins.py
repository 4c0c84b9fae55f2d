"""User modules that register networks, data sets and optimizers."""

import importlib
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from resnet_jax.errors import ConfigError, MissingModulesError

imported: list[str] = []  # names, in the order of import; a run records them


def check_imported(names: Sequence[str], where: str, reason: Exception) -> None:
    """Checks that the modules of a run have been imported.

    Args:
      where: the run, for the message.
      reason: the error that occurred without them.

    Raises:
      MissingModulesError: one of them has not been imported.
    """
    if isinstance(reason, MissingModulesError):
        raise reason
    missing = [name for name in names if name not in imported and re.fullmatch(r'[\w.-]+', name)]
    if missing:
        raise MissingModulesError(f'the run in {where} needs modules that are not imported ({reason})', missing)


def import_flags() -> list[str]:
    """Returns flags with which a command started by this process imports the same modules."""
    return [f'--import={name}' for name in imported]


def import_modules(names: Sequence[str]) -> None:
    """Imports modules by name, or the entry points of installed packages in the group 'resnet_jax'.

    Also searches the current folder. Only this function imports modules that a run folder names.

    Raises:
      ConfigError: a module does not exist, or importing it fails.
    """
    for name in names:
        points = metadata.entry_points(group='resnet_jax', name=name)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            if points:
                points[name].load()
            else:
                importlib.import_module(name)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise ConfigError(
                f'module {name!r} cannot be imported ({type(error).__name__}: {error}); expected one in the current '
                'folder or of an installed package'
            ) from None
        if name not in imported:
            imported.append(name)
