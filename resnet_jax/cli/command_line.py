"""What every command in bin/ shares: flags in, one line out when something is wrong, and the right exit code."""

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from resnet_jax.errors import ConfigError, Interrupted, ResourceError, UserError
from resnet_jax.runtime.compilation_cache import use_compilation_cache

flags.disclaim_key_flags()  # --config belongs to the script that asks for it, so that its --help lists it


def define_config_flag() -> flags.FlagHolder:
    """Defines --config=FILE; every field can be overridden as --config.FIELD=VALUE.

    New fields are let through here so that `TrainConfig` can name the nearest existing one.
    """
    return config_flags.DEFINE_config_file(
        'config', None, 'Config file, e.g. configs/resnet18.py', lock_config=False, accept_new_attributes=True
    )


def load_config(flag: flags.FlagHolder) -> tuple[str, ConfigDict]:
    """Returns the config's name (its file name without .py) and the config with the overrides applied.

    Raises:
      ConfigError: no --config, no such file, or the file fails when it is run.
    """
    try:
        path = Path(config_flags.get_config_filename(flags.FLAGS[flag.name]))
    except config_flags.config_flags.UnparsedFlagError:
        raise ConfigError('no config file given; expected --config=FILE, e.g. --config=configs/resnet18.py') from None
    if not path.is_file():
        raise ConfigError(f'no config file {str(path)!r}; {_neighbours(path)}')
    try:
        config = flag.value
        if not isinstance(config, ConfigDict):
            config.lock()  # The flag's stand-in for a config that failed to load: raises what went wrong.
    except Exception as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f'{path} could not be read as a config: {reason[-1] if reason else error!r}') from None
    if not isinstance(config, ConfigDict):
        raise ConfigError(f'{path}: get_config() returned {type(config).__name__}, expected an ml_collections.ConfigDict')
    return path.stem, config


def _neighbours(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path('configs')
    names = sorted(str(folder / p.name) for p in folder.glob('*.py') if p.name != '__init__.py')
    return 'expected one of ' + ', '.join(names) if names else 'expected a Python file with a get_config() function'


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Returns {'stem': 'imagenet', 'num_filters': 32} for ['stem=imagenet', 'num_filters=32']; values are JSON or strings.

    Raises:
      ConfigError: a text is not FIELD=VALUE.
    """
    result = {}
    for text in texts:
        field, equals, value = text.partition('=')
        if not equals or not field.isidentifier() or field in ('name', 'num_classes', 'image_shape'):
            raise ConfigError(f'{text!r} is not an argument of a model; expected FIELD=VALUE, as stem=imagenet')
        try:
            result[field] = json.loads(value)
        except ValueError:
            result[field] = value
    return result


def parse_shape(texts: Sequence[str]) -> tuple[int, int, int]:
    """Returns (32, 32, 3) for ['32', '32', '3'].

    Raises:
      ConfigError: not three positive integers.
    """
    try:
        height, width, channels = map(int, texts)
        if min(height, width, channels) > 0:
            return height, width, channels
    except ValueError:
        pass
    raise ConfigError(f'{",".join(texts)!r} is not the shape of an image; expected height,width,channels, as 32,32,3')


def parse_counts(flag: str, texts: Sequence[str] | None) -> list[int]:
    """Returns [1, 2, 4] for ['1', '2', '4'], and [] for None.

    Raises:
      ConfigError: not positive integers.
    """
    try:
        counts = [int(text) for text in texts or ()]
    except ValueError:
        counts = [0]
    if texts == [] or any(count < 1 for count in counts):
        raise ConfigError(f'--{flag} is {",".join(texts or ())!r}; expected positive integers with commas between, as 1,2,4')
    return counts


def run(main: Callable[[Sequence[str]], Any]) -> None:
    """Parses the flags, calls `main(positional arguments)` and exits with the code of errors.py."""
    app.run(lambda argv: _guarded(main, argv[1:]), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    if {'--help', '-help', '-h'} & set(argv[1:]):
        print((sys.modules['__main__'].__doc__ or '').strip() + '\n' + flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(ConfigError(_plainly(str(error))))
    except Exception as error:  # The config file runs while the flags are parsed; and an override may not fit it.
        _fail(ConfigError(f'the config could not be read ({type(error).__name__}: {error}); correct the file or the flags'))
    raise AssertionError('unreachable')


def _plainly(message: str) -> str:
    """Says what was expected where Python's own message of a conversion does not."""
    message = re.sub(r"invalid literal for int\(\) with base 10: '.*'", 'expected an integer', message)
    message = re.sub(r"could not convert string to float: '.*'", 'expected a number', message)
    return re.sub(r"\('Non-boolean argument to boolean flag', '.*'\)", 'expected True or False', message)


def _guarded(main: Callable[[Sequence[str]], Any], arguments: Sequence[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX tell absl what they do, at length
    # After a save that failed, tasks that Orbax gave up: asyncio prints a traceback for each when it is collected.
    getLogger('asyncio').setLevel(CRITICAL)
    use_compilation_cache()
    try:
        main(arguments)
    except UserError as error:
        _fail(error)
    except Interrupted as interrupted:
        print('Interrupted; the state is saved. The same command continues.', file=sys.stderr)
        _leave(128 + interrupted.number)
    except RuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        _fail(ResourceError('out of device memory; expected less to compute at once: lower batch_size or eval_batch_size'))
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        _leave(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except MemoryError:
        _fail(ResourceError('out of memory; expected less to hold at once: lower batch_size, or close other programs'))
    except OSError as error:
        if not error.errno:
            raise
        _fail(ResourceError(f'{error.filename or "a file"}: {error.strerror}; check the disk and the permissions'))
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


def _fail(error: UserError) -> None:
    print('error: ' + ' '.join(str(error).split()), file=sys.stderr)
    sys.exit(error.exit_code)
