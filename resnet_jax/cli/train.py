"""Trains a config, or continues a run: {name} --config=resnet18 [--config.FIELD=VALUE ...] [--workdir=FOLDER]

The same command continues an interrupted run or reports that it is finished; {name} --workdir=FOLDER continues the run in that
folder. --init_config=FILE writes a config to start from.
"""

import importlib.util
import os
import re
import shlex
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.cli import command
from resnet_jax.cli.arguments import expand_home
from resnet_jax.config import TrainConfig, fields
from resnet_jax.errors import ConfigError, OtherConfigError, ResourceError, UserError
from resnet_jax.runtime.files import write_atomically

FLAGS = command.Flags()
FLAGS.define_config()
FLAGS.define('path', 'workdir', None, 'Run folder; default runs/<config name>.')
FLAGS.define('bool', 'extend', False, 'Let a run go on to more epochs than it was started for.')
FLAGS.define(
    'bool',
    'allow_changes',
    False,
    'Let a run go on with another learning rate, schedule, weight decay or place of the same images; it is recorded.',
)
FLAGS.define('bool', 'profile', False, 'Trace ten iterations into profile/ in the workdir, for XProf or Perfetto.')
FLAGS.define('integer', 'seeds', None, 'Train as many seeds, from config.seed on, each in a folder of the workdir.', 1)
FLAGS.define('path', 'init_config', None, 'Write a config file to start from, and do nothing else.')
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
    """Returns the arguments with --config resolved; without --config, uses the config in the run folder, if any.

    Raises:
      ResourceError: the run folder cannot be read.
    """
    workdir = [expand_home(value) for _, value in command.flag_values(arguments, 'workdir')][-1:]
    try:
        continues = bool(workdir) and Path(workdir[0], 'config.json').is_file()
    except PermissionError as error:
        raise ResourceError(f'{error.filename} cannot be read: {error.strerror}; check the permissions of the folder') from None
    if continues and not any(command.flag_values(arguments, 'config')):
        return [f'--config={Path(__file__).with_name("run_config.py")}:{workdir[0]}', *arguments]
    return command.resolve_config(arguments)


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax train` with the arguments that are not flags.

    Raises:
      ConfigError: there is an unexpected argument, or flags contradict each other.
    """
    if arguments:
        field = arguments[0].lstrip('-').partition('=')[0]
        known = field in {known.name for known in fields()}
        expected = f'--config.{arguments[0]}' if known else 'flags only, such as --config=resnet18'
        raise ConfigError(f'unexpected argument {arguments[0]!r}; expected {expected}')
    if FLAGS.value('init_config'):
        return _write_config(Path(FLAGS.value('init_config')))
    workdir = FLAGS.value('workdir')
    if workdir and not FLAGS['config'].present:
        raise ConfigError(
            f'no config given, and {workdir} holds no run to continue; expected --config=NAME or FILE, as --config=resnet18'
        )
    name, config = command.load_config(FLAGS)
    workdir = Path(workdir or Path('runs', name))
    try:
        _train(TrainConfig.from_mapping(config), workdir)  # checks the fields before JAX is imported
    except ConfigError as error:
        from resnet_jax.runs.metadata import modules_of_run

        plugins.check_imported(modules_of_run(workdir), str(workdir), error)
        raise


def _train(checked: TrainConfig, workdir: Path) -> None:
    if checked.deterministic:  # XLA reads this once; it excludes autotuning and kernels with unordered sums
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
    address, count, rank = (FLAGS.value(flag) for flag in ('coordinator_address', 'num_processes', 'process_id'))
    if (count is not None or rank is not None) and not address:
        raise ConfigError('--num_processes and --process_id need --coordinator_address=HOST:PORT of process 0')
    if FLAGS.value('distributed') or address:
        from resnet_jax.runs.folder import check_not_in_use
        from resnet_jax.runtime import distributed

        check_not_in_use(workdir)
        try:
            distributed.initialize(address, count, rank, FLAGS.value('initialization_timeout'))
        except UserError as error:
            raise _with_flags(error) from None
    import jax

    from resnet_jax.training.loop import train_and_evaluate
    from resnet_jax.training.seeds import train_seeds

    jax.device_put(0)  # if JAX_DEFAULT_DEVICE is not a device of this machine, fails before there is a run folder
    options = {'extend': FLAGS.value('extend'), 'allow_changes': FLAGS.value('allow_changes'), 'grace_seconds': 5.0}
    if FLAGS.value('seeds') and FLAGS.value('profile'):
        raise ConfigError('--profile traces one run; expected it without --seeds')
    try:
        if FLAGS.value('seeds'):
            done = train_seeds(checked, workdir, FLAGS.value('seeds'), **options)
            accuracies = [100 * each.result['accuracy'] for each in done]
            spread = f' ± {statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else ''
            print(f'{len(accuracies)} seeds in {workdir}: accuracy {statistics.mean(accuracies):.2f}{spread} % (mean ± sd)')
        else:
            train_and_evaluate(checked, workdir, **options, profile=FLAGS.value('profile'))
            if jax.process_index() == 0:
                _print_next_steps(workdir)
    except OtherConfigError as error:
        raise ConfigError(error.message('--')) from None


def _print_next_steps(workdir: Path) -> None:
    here = shlex.quote(str(workdir))
    needs = '' if importlib.util.find_spec('tensorboard') else '  (after pip install tensorboard)'
    print(f'Next: open {here}/report.html')
    print(f'      tensorboard --logdir={here}/tensorboard{needs}')
    print(f'      resnet-jax predict --workdir={here} IMAGE...')


def _with_flags(error: UserError) -> UserError:
    """Returns an error of `distributed.initialize` with '--' before argument names, except in quoted values."""
    names = r"'[^']*'|\b(coordinator_address|num_processes|process_id)\b"
    error.args = (re.sub(names, lambda match: f'--{match[1]}' if match[1] else match[0], str(error)),)
    return error


def _write_config(path: Path) -> None:
    if path.suffix != '.py':
        raise ConfigError(f'--init_config={path} is not the name of a Python file; expected one that ends in .py')
    try:
        if os.path.lexists(path):
            raise ConfigError(f'{path} exists; expected the name of a new file')
        write_atomically(path, _TEMPLATE.format(path=path))
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
