"""Trains a config, or continues a run: {name} --config=resnet18 [--config.FIELD=VALUE ...] [--workdir=FOLDER]

The same command again continues the run or, if it is finished, says so; {name} --workdir=FOLDER continues whatever run is
there. --init_config=FILE writes a config to start from.
"""

import json
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.cli import command
from resnet_jax.config import TrainConfig, fields
from resnet_jax.errors import ConfigError, ResourceError

FLAGS = command.Flags()
FLAGS.define_config()
FLAGS.define('string', 'workdir', None, 'Run folder; default runs/<config name>.')
FLAGS.define('bool', 'extend', False, 'Let a run go on to more epochs than it was started for.')
FLAGS.define(
    'bool', 'allow_changes', False, 'Let a run go on with another learning rate, schedule or weight decay; it is recorded.'
)
FLAGS.define('string', 'init_config', None, 'Write a config file to start from, and do nothing else.')
FLAGS.define('bool', 'distributed', False, 'One of several processes; SLURM, MPI and Kubernetes are found.')
FLAGS.define('string', 'coordinator_address', None, 'host:port of process 0, where none of these is found.')
FLAGS.define('integer', 'num_processes', None, 'With --coordinator_address.')
FLAGS.define('integer', 'process_id', None, 'With --coordinator_address.')
FLAGS.define('integer', 'initialization_timeout', 300, 'Seconds that processes wait for each other at the start.', 1)

_TEMPLATE = '''"""My recipe: resnet-jax train --config={path}"""

from resnet_jax import default_config


def get_config():
    config = default_config()  # every field and its meaning: resnet-jax train --help
    config.dataset = 'cifar10'
    config.model = 'resnet20'
    config.num_epochs = 100
    config.learning_rate = 0.1
    return config
'''


def prepare(arguments: list[str]) -> list[str]:
    """Gives a run folder without a --config the config that lies in it."""
    given = [argument.lstrip('-').partition('=') for argument in arguments]
    names = {name for name, _, _ in given}
    workdir = next((value for name, _, value in reversed(given) if name == 'workdir'), '')
    if 'config' in names or not workdir or not Path(workdir, 'config.json').is_file():
        return command.resolve_config(arguments)
    return [f'--config={Path(__file__).with_name("run_config.py")}:{workdir}', *arguments]


def main(arguments: Sequence[str]) -> None:
    if arguments:
        field = arguments[0].lstrip('-').partition('=')[0]
        known = field in {known.name for known in fields()}
        expected = f'--config.{arguments[0]}' if known else 'flags only, such as --config=resnet18'
        raise ConfigError(f'unexpected argument {arguments[0]!r}; expected {expected}')
    if FLAGS.value('init_config'):
        return _write_config(Path(FLAGS.value('init_config')))
    name, config = command.load_config(FLAGS)
    workdir = Path(FLAGS.value('workdir') or Path('runs', name))
    try:
        checked = TrainConfig.from_mapping(config)  # before JAX is imported: a wrong field is told at once
    except ConfigError as error:
        plugins.check_imported(_modules(workdir), str(workdir), error)
        raise
    if checked.deterministic:  # XLA reads it once; it rules out kernels that add in any order, and choosing them by their time
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
    address, count, rank = (FLAGS.value(flag) for flag in ('coordinator_address', 'num_processes', 'process_id'))
    if (count is not None or rank is not None) and not address:
        raise ConfigError('--num_processes and --process_id need --coordinator_address=HOST:PORT of process 0')
    if FLAGS.value('distributed') or address:
        from resnet_jax.runtime import distributed

        distributed.initialize(address, count, rank, FLAGS.value('initialization_timeout'))
    from resnet_jax.training.loop import train_and_evaluate

    try:
        train_and_evaluate(checked, workdir, extend=FLAGS.value('extend'), allow_changes=FLAGS.value('allow_changes'))
    except ConfigError as error:
        if 'continue with' not in str(error):
            raise
        raise ConfigError(re.sub(r'\b(extend|allow_changes)\b', r'--\1', str(error))) from None


def _modules(workdir: Path) -> list[str]:
    """The user's modules that the run in a folder was started with."""
    try:
        return [str(name) for name in json.loads((workdir / 'environment.json').read_text()).get('imports', [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def _write_config(path: Path) -> None:
    if path.exists():
        raise ConfigError(f'{path} exists; expected the name of a new file')
    try:
        path.write_text(_TEMPLATE.format(path=path))
    except OSError as error:
        raise ResourceError(f'{path} cannot be written: {error.strerror}; choose another place') from None
    print(f'{path}: change it, then resnet-jax train --config={path}')


def more_help() -> str:
    """Returns every field of a config with its range, default and meaning."""
    lines = ['Fields of a config, set with --config.FIELD=VALUE or in a config file:']
    for field in fields():
        check = field.metadata['check']
        default = field.default if field.default_factory is not dict else {}
        expected = ' | '.join(check.choices) if check.choices else check.expected
        if field.metadata['section']:
            lines += ['', f'{field.metadata["section"]}:']
        text = f'{field.metadata["meaning"]} Expected {expected}; default {default!r}.'
        if field.metadata['changes'] == 'on_request':
            text += ' May change with --allow_changes.'
        lines += textwrap.wrap(f'{field.name}: {text}', 118, initial_indent='  ', subsequent_indent='      ')
    return '\n'.join(lines)
