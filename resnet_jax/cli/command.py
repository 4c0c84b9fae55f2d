"""What every command shares: flags in, one line out when something is wrong, and the right exit code."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from resnet_jax import config_file, plugins
from resnet_jax.cli.arguments import expand_home
from resnet_jax.config import fields
from resnet_jax.errors import ConfigError, Interrupted, MissingModulesError, ResourceError, UserError, is_out_of_memory
from resnet_jax.runtime import streams
from resnet_jax.runtime.compilation_cache import use_compilation_cache
from resnet_jax.runtime.jax_settings import use_our_settings, why_jax_does_not_start


class _PathParser(flags.ArgumentParser[str]):
    def parse(self, argument: str) -> str:
        return expand_home(argument)


class Flags(flags.FlagValues):
    """The flags of one command, apart from those of all others; each has --import=MODULE."""

    takes_config = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        text = 'Module that registers your own network, data set or optimizer; may be repeated.'
        self.define('multi_string', 'import', [], text)

    def define(self, kind: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Defines a flag as `absl.flags.DEFINE_<kind>` does; or a 'path', in which ~ is the home folder."""
        if kind == 'path':
            return flags.DEFINE(_PathParser(), name, *arguments, **options, flag_values=self)  # type: ignore[call-overload]
        return getattr(flags, f'DEFINE_{kind}')(name, *arguments, **options, flag_values=self)

    def define_config(self) -> None:
        """Defines --config=FILE or NAME; every field can be overridden as --config.FIELD=VALUE.

        New fields are let through here so that `TrainConfig` can name the nearest existing one.
        """
        self.__dict__['takes_config'] = True  # an attribute of FlagValues would be a flag
        config_flags.DEFINE_config_file(
            'config',
            None,
            'Config: a name, such as resnet18, or a file. --config.FIELD=VALUE changes a field.',
            lock_config=False,
            accept_new_attributes=True,
            flag_values=self,
        )

    def value(self, name: str) -> Any:
        """Returns the value of a flag."""
        return self[name].value


def load_config(values: Flags) -> tuple[str, ConfigDict]:
    """Returns the config's name (its file name without .py) and the config with the overrides applied.

    Raises:
      ConfigError: no --config, no such file, or the file fails when it is run.
    """
    flag = values['config']
    try:
        path = Path(config_flags.get_config_filename(flag))
    except config_flags.config_flags.UnparsedFlagError:
        raise ConfigError('no config given; expected --config=NAME or FILE, as --config=resnet18') from None
    try:
        config: Any = flag.value
        if not isinstance(config, ConfigDict):
            config.lock()  # The flag's stand-in for a config that failed to load: raises what went wrong.
    except Exception as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f'{path} could not be read as a config: {reason[-1] if reason else error!r}') from None
    if not isinstance(config, ConfigDict):
        raise ConfigError(f'{path}: get_config() returned {type(config).__name__}, expected an ml_collections.ConfigDict')
    return path.stem, config


def resolve_config(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the path in place of the name that --config has.

    Raises:
      ConfigError: there is no such config.
    """
    resolved = list(arguments)
    for index, value in flag_values(arguments, 'config'):
        file, colon, argument = value.partition(':')  # config_flags passes what follows to get_config()
        if not file:
            raise ConfigError('--config has no value; expected --config=NAME or FILE, as --config=resnet18')
        before = arguments[index].removesuffix(value)
        resolved[index] = f'{before}{config_file.find(file)}{colon}{argument}'
    return resolved


def flag_values(arguments: Sequence[str], name: str) -> Iterator[tuple[int, str]]:
    """Yields the values of a flag, --name=VALUE or --name VALUE, with their indices, before the flags are parsed."""
    for index, argument in enumerate(arguments):
        if argument == '--':
            return
        if match := re.fullmatch(rf'--?{name}(=(.*))?', argument, re.DOTALL):
            if match[1]:
                yield index, match[2]
            elif index + 1 < len(arguments):
                yield index + 1, arguments[index + 1]


def run(command: ModuleType, arguments: Sequence[str], name: str) -> NoReturn:
    """Parses the flags, calls the command and exits with the code of errors.py.

    Args:
      command: a module with `FLAGS`, `main(positional arguments)` and, if it has one, `prepare(arguments)`.
      name: how the command was called, for its help.
    """
    streams.show_any_text()
    sys.exit(streams.finish(_guarded(command, arguments, name)))


def _run(command: ModuleType, arguments: Sequence[str], name: str) -> None:
    if {'--help', '-help', '-h'} & set(arguments):
        print(help_text(command, name))
        return
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX tell absl what they do, at length
    # After a save that failed, tasks that Orbax gave up: asyncio prints a traceback for each when it is collected.
    getLogger('asyncio').setLevel(CRITICAL)
    os.environ['MPLBACKEND'] = 'agg'  # plots are files here; what Jupyter names for its terminals may not be installed
    positional = _parse(command, arguments, name)
    use_compilation_cache()
    use_our_settings()
    command.main(positional)


def _parse(command: ModuleType, arguments: Sequence[str], name: str) -> list[str]:
    """Imports the modules of --import, parses the flags and returns the positional arguments.

    The modules come first, for a config may have a name that they register.
    """
    if modules := [value for _, value in flag_values(arguments, 'import')]:
        use_compilation_cache()  # before the modules import JAX
        use_our_settings()
        plugins.import_modules(modules)
    with contextlib.suppress(flags.Error):
        flags.FLAGS.mark_as_parsed()  # absl's own, which some libraries ask
    try:
        prepare = getattr(command, 'prepare', list)
        sys.argv = [name, *prepare(list(arguments))]  # ml_collections looks for overrides there
        positional: list[str] = command.FLAGS(sys.argv)[1:]
        return positional
    except UserError:
        raise
    except flags.Error as error:
        raise ConfigError(_plainly(str(error))) from None
    except Exception as error:  # The config file runs while the flags are parsed; and an override may not fit it.
        reason = f'{type(error).__name__}: {error}'
        raise ConfigError(f'the config could not be read ({reason}); correct the file or the flags') from None


def help_text(command: ModuleType, name: str) -> str:
    """Returns what --help prints: the module's docstring, its flags and, where it takes a config, all fields."""
    lines = [(command.__doc__ or '').strip().replace('{name}', name), '', 'Flags:']
    for flag in map(command.FLAGS.__getitem__, command.FLAGS):
        default = '' if flag.default is None or flag.default == [] else f' (default: {flag.default})'
        text = flag.help.replace(';\n    repeat this option to specify a list of values', '')  # absl's, besides our own words
        lines.append(f'  --{flag.name}: {text}{default}')
    if hasattr(command, 'more_help'):
        lines += ['', command.more_help()]
    return '\n'.join(lines)


def _plainly(message: str) -> str:
    """Says what was expected where Python's own message of a conversion does not; of a traceback the last line."""
    if match := re.match(r'flag --config=(\S+?): Error whilst parsing config file:', message):
        reason = [line.strip() for line in message.splitlines() if line.strip()][-1]
        return f'{match[1]} could not be read as a config: {reason}'
    message = re.sub(r"invalid literal for int\(\) with base 10: '.*'", 'expected an integer', message)
    message = re.sub(r"could not convert string to float: '.*'", 'expected a number', message)
    return re.sub(r"\('Non-boolean argument to boolean flag', '.*'\)", 'expected True or False', message)


def _guarded(command: ModuleType, arguments: Sequence[str], name: str) -> int:
    values: Flags = command.FLAGS
    try:
        _run(command, arguments, name)
    except UserError as error:
        return _fail(error, values)
    except Interrupted as interrupted:
        streams.tell('Interrupted; the state is saved. The same command continues.')
        _leave(128 + interrupted.number)
    except KeyboardInterrupt:
        streams.tell('Interrupted.')
        _leave(128 + signal.SIGINT)
    except BrokenPipeError:
        streams.silence(sys.stdout)  # its reader has gone (`| head`)
        return 128 + signal.SIGPIPE
    except MemoryError:
        return _fail(
            ResourceError('out of memory; expected less to hold at once: lower batch_size, or close other programs'), values
        )
    except Exception as error:
        if is_out_of_memory(error) and isinstance(error, RuntimeError):
            text = 'out of device memory; expected less to compute at once: lower batch_size or eval_batch_size'
            return _fail(ResourceError(text), values)
        if isinstance(error, OSError) and error.errno:
            where = error.filename or 'a file, or standard output'
            return _fail(ResourceError(f'{where}: {error.strerror}; check the disk and the permissions'), values)
        if found := why_jax_does_not_start():
            return _fail(found, values)
        raise
    return 0


def _leave(code: int) -> None:
    """Ends the process after a signal; not by taking JAX down, which the signal may have found in the middle of something.

    Seen: a segmentation fault, and with it another exit code. Several processes say goodbye to each other.
    """
    jax = sys.modules.get('jax')
    if jax and jax.distributed.is_initialized():
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never there
            stream.flush()
    os._exit(code)


def _fail(error: UserError, values: Flags) -> int:
    text, advice = str(error), ''
    if values.takes_config:  # The library says field=value; a command takes it as a flag. Folders have such names too.
        names = '|'.join(field.name for field in fields())
        text = re.sub(rf'(?<=[\s(])({names})=(?=[^\s/]+(\s|$))', r'--config.\1=', text)
    if isinstance(error, MissingModulesError):
        advice = '; expected ' + ' '.join(f'--import={module}' for module in error.modules)
    streams.tell('error: ' + ' '.join(f'{text}{advice}'.split()))
    return error.exit_code
