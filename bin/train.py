"""Trains a config, or continues it: python bin/train.py --config=configs/resnet18.py [--config.FIELD=VALUE ...]."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # config files import configs.default

if __name__ == '__main__':
    from resnet_jax.runtime import huge_pages

    huge_pages.use()

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError

_CONFIG = command_line.define_config_flag()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder; default runs/<config name>.')
_EXTEND = flags.DEFINE_bool('extend', False, 'Let a run go on to more epochs than it was started for.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'One of several processes; SLURM, MPI and Kubernetes are found.')
_COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'host:port of process 0, where none of these is found.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator_address.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator_address.')
_TIMEOUT = flags.DEFINE_integer('initialization_timeout', 300, 'Seconds that processes wait for each other at the start.', 1)


def main(arguments):
    if arguments:
        raise ConfigError(f'unexpected argument {arguments[0]!r}; expected flags only, such as --config=FILE')
    name, config = command_line.load_config(_CONFIG)
    TrainConfig.from_mapping(config)  # before JAX is imported: a wrong field is told at once
    if config.deterministic:  # XLA reads this once; it rules out kernels that add in any order, and choosing them by their time
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
    if (_NUM_PROCESSES.value is not None or _PROCESS_ID.value is not None) and not _COORDINATOR.value:
        raise ConfigError('--num_processes and --process_id need --coordinator_address=HOST:PORT of process 0')
    if _DISTRIBUTED.value or _COORDINATOR.value:
        from resnet_jax.runtime import distributed

        distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _TIMEOUT.value)
    from resnet_jax.training.loop import train_and_evaluate

    train_and_evaluate(config, _WORKDIR.value or Path('runs', name), extend=_EXTEND.value)


if __name__ == '__main__':
    command_line.run(main)
