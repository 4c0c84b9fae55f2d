"""Shared by all commands: parses flags, prints errors as one line and returns the right exit code."""

import contextlib
import gc
import math
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

# The text that a command adds to an error of a topic.
_ADVICE = {
    'weights': '; resnet-jax models --weights lists all names',
    'broken_images': '; resnet-jax data --broken_images=skip lists all such images',
}


class _PathParser(flags.ArgumentParser[str]):
    def parse(self, argument: str) -> str:
        return expand_home(argument)


class Flags(flags.FlagValues):
    """The flags of one command, separate from those of other commands; every command has --import=MODULE."""

    takes_config = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        text = 'Module that registers your own network, data set or optimizer; may be repeated.'
        self.define('multi_string', 'import', [], text)

    def define(self, kind: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Defines a flag like `absl.flags.DEFINE_<kind>`, or a 'path', which expands ~; a 'float' must be finite."""
        if kind == 'path':
            return flags.DEFINE(_PathParser(), name, *arguments, **options, flag_values=self)  # type: ignore[call-overload]
        flag = getattr(flags, f'DEFINE_{kind}')(name, *arguments, **options, flag_values=self)
        if kind == 'float':  # NaN passes any bounds
            flags.register_validator(flag, math.isfinite, message='expected a finite number')
        return flag

    def define_config(self) -> None:
        """Defines --config=FILE or NAME; every field can be overridden as --config.FIELD=VALUE.

        Unknown fields are accepted here, so that `TrainConfig` can report them and suggest the nearest one.
        """
        self.__dict__['takes_config'] = True  # setting an attribute of FlagValues would define a flag
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
    """Returns the config's name (its file name without .py) and the config with overrides applied.

    Raises:
      ConfigError: there is no --config, no such file, or running the file fails.
    """
    flag = values['config']
    try:
        path = Path(config_flags.get_config_filename(flag))
    except config_flags.config_flags.UnparsedFlagError:
        raise ConfigError('no config given; expected --config=NAME or FILE, as --config=resnet18') from None
    try:
        config: Any = flag.value
        if not isinstance(config, ConfigDict):
            config.lock()  # A placeholder for a config that failed to load: raises the original error.
    except Exception as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise _config_error(str(path), reason[-1] if reason else repr(error)) from None
    if not isinstance(config, ConfigDict):
        raise config_file.not_a_config(path, type(config).__name__)
    return path.stem, config


def resolve_config(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the name in --config replaced by the config's path.

    Raises:
      ConfigError: there is no such config.
    """
    resolved = list(arguments)
    for index, value in flag_values(arguments, 'config'):
        file, colon, argument = value.partition(':')  # config_flags passes the part after the colon to get_config()
        if not file:
            raise ConfigError('--config has no value; expected --config=NAME or FILE, as --config=resnet18')
        before = arguments[index].removesuffix(value)
        resolved[index] = f'{before}{config_file.find(file)}{colon}{argument}'
    return resolved


def flag_values(arguments: Sequence[str], name: str) -> Iterator[tuple[int, str]]:
    """Yields (index, value) of each --name=VALUE or --name VALUE in unparsed arguments."""
    for index, argument in enumerate(arguments):
        if argument == '--':
            return
        if match := re.fullmatch(rf'--?{name}(=(.*))?', argument, re.DOTALL):
            if match[1]:
                yield index, match[2]
            elif index + 1 < len(arguments):
                yield index + 1, arguments[index + 1]


def run(command: ModuleType, arguments: Sequence[str], name: str) -> NoReturn:
    """Parses the flags, calls the command and exits with an exit code of errors.py.

    Args:
      command: a module with `FLAGS`, `main(positional arguments)` and optionally `prepare(arguments)`.
      name: the name with which the command was called, for its help.
    """
    streams.show_any_text()
    code = streams.finish(_guarded(command, arguments, name))
    gc.freeze()  # otherwise Python scans all objects several times at exit, which takes up to a second
    sys.exit(code)


def _run(command: ModuleType, arguments: Sequence[str], name: str) -> None:
    if {'--help', '-help', '-h'} & set(arguments):
        print(help_text(command, name))
        return
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX log verbosely through absl
    # After a failed save, asyncio prints a traceback for each task that Orbax abandoned.
    getLogger('asyncio').setLevel(CRITICAL)
    os.environ['MPLBACKEND'] = 'agg'  # plots are files here; the backend of Jupyter's terminals may not be installed
    positional = _parse(command, arguments, name)
    use_compilation_cache()
    use_our_settings()
    command.main(positional)


def _parse(command: ModuleType, arguments: Sequence[str], name: str) -> list[str]:
    """Imports the modules of --import, parses the flags and returns the positional arguments.

    Imports the modules first, because a config may use names that they register.

    Raises:
      ConfigError: a flag is invalid, or the config file fails.
    """
    if modules := [value for _, value in flag_values(arguments, 'import')]:
        use_compilation_cache()  # before the modules import JAX
        use_our_settings()
        plugins.import_modules(modules)
    with contextlib.suppress(flags.Error):
        flags.FLAGS.mark_as_parsed()  # absl's global flags, which some libraries read
    try:
        prepare = getattr(command, 'prepare', list)
        sys.argv = [name, *prepare(list(arguments))]  # ml_collections reads overrides from sys.argv
        positional: list[str] = command.FLAGS(sys.argv)[1:]
        return positional
    except UserError:
        raise
    except flags.Error as error:
        raise ConfigError(_plainly(str(error))) from None
    except (Exception, SystemExit) as error:  # Parsing the flags runs the config file, and an override may not fit it.
        path = next((value for _, value in flag_values(arguments, 'config')), 'the config')
        raise _config_error(path, f'{type(error).__name__}: {error}') from None


def help_text(command: ModuleType, name: str) -> str:
    """Returns the text of --help: the module's docstring, its flags and, if it has a function `more_help`, its result."""
    lines = [(command.__doc__ or '').strip().replace('{name}', name), '', 'Flags:']
    for flag in map(command.FLAGS.__getitem__, command.FLAGS):
        default = '' if flag.default is None or flag.default == [] else f' (default: {flag.default})'
        text = flag.help.replace(
            ';\n    repeat this option to specify a list of values', ''
        )  # absl adds this; our help says it already
        lines.append(f'  --{flag.name}: {text}{default}')
    if hasattr(command, 'more_help'):
        lines += ['', command.more_help()]
    return '\n'.join(lines)


def _config_error(path: str, reason: str) -> ConfigError:
    """Returns the error for a config file that failed; common errors are plainer than those of ml_collections."""
    if match := re.fullmatch(r".*'(\w+)' object has no attribute 'lock'.*", reason, re.DOTALL):
        return config_file.not_a_config(path, match[1])
    plain = {
        r'.*get_config\(\) takes 0 positional arguments.*': 'get_config() takes no argument, expected nothing after the colon',
        r".*get_config\(\) missing .* argument: '(\w+)'": r'get_config() needs an argument, expected --config=FILE:\1',
        r".*Could not override field '(\w+)'.*\. (.*) is of original type <class '(.*)'> and cannot be casted to type "
        r"<class '(.*)'>": r"field '\1' is \2 of type \3, expected \4",
    }
    for pattern, replacement in plain.items():
        if match := re.fullmatch(pattern, reason, re.DOTALL):
            return ConfigError(f'{path}: {match.expand(replacement)}; correct the file')
    return ConfigError(f'{path} could not be read as a config ({reason}); correct the file or the flags')


def _plainly(message: str) -> str:
    """Replaces messages of failed conversions by what was expected, and reduces a traceback to its last line."""
    if match := re.match(r'flag --config=(\S+?): Error whilst parsing config file:', message):
        reason = [line.strip() for line in message.splitlines() if line.strip()][-1]
        return str(_config_error(match[1], reason))
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
        streams.tell('Interrupted; the state is saved. The next start continues.')
        _leave(128 + interrupted.number)
    except KeyboardInterrupt:
        streams.tell('Interrupted.')
        _leave(128 + signal.SIGINT)
    except BrokenPipeError:
        streams.silence(sys.stdout)  # the reader has gone (`| head`)
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
        if problem := why_jax_does_not_start(error):
            return _fail(problem, values)
        raise
    return 0


def _leave(code: int) -> None:
    """Ends the process after a signal, without shutting down JAX, which the signal may have interrupted.

    A shutdown can end in a segmentation fault, which changes the exit code. With several processes a shutdown is needed.
    """
    jax = sys.modules.get('jax')
    if jax and jax.distributed.is_initialized():
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or missing
            stream.flush()
    os._exit(code)


def _fail(error: UserError, values: Flags) -> int:
    text, advice = str(error), _ADVICE.get(error.topic, '')
    if values.takes_config:  # The library writes field=value; this becomes a flag, but not in folder names.
        names = '|'.join(field.name for field in fields())
        text = re.sub(rf'(?<=[\s(])({names})=(?=[^\s/]+(\s|$))', r'--config.\1=', text)
    if isinstance(error, MissingModulesError):
        advice = '; expected ' + ' '.join(f'--import={module}' for module in error.modules)
    streams.tell('error: ' + ' '.join(f'{text}{advice}'.split()))
    return error.exit_code
