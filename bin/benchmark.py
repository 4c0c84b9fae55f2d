"""Measures speed: python bin/benchmark.py --config=configs/resnet18.py [--peer=torch] [--config.FIELD=VALUE ...].

The training and evaluation steps are the very ones of bin/train.py, on random data of the shape of the config's.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # config files import configs.default

from absl import flags

from resnet_jax import command_line
from resnet_jax.errors import ConfigError
from resnet_jax.training.config import validate

_CONFIG = command_line.define_config_flag()
_PEER = flags.DEFINE_enum('peer', None, ['torch'], 'Also measure the same network there, in turns.')
_DEVICES = flags.DEFINE_list('devices', None, 'Numbers of CPU devices, as 1,2,4: a row for each.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', None, 'Batch sizes, as 32,64,128: a row for each.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Measurements of each side.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'About what one measurement takes; at least one step.', lower_bound=0.01)
_COLD = flags.DEFINE_bool('cold', False, 'Compile with an empty persistent cache, and again with what it then holds.')
_JSON = flags.DEFINE_string('json', None, 'File to write: all numbers, versions and hardware.')


def main(arguments):
    if arguments:
        raise ConfigError(f'unexpected argument {arguments[0]!r}; expected flags only, such as --config=FILE')
    name, config = command_line.load_config(_CONFIG)
    values = validate(config)
    devices = command_line.parse_counts('devices', _DEVICES.value)
    sizes = command_line.parse_counts('batch_sizes', _BATCH_SIZES.value)
    from resnet_jax.benchmark import report
    from resnet_jax.benchmark.measure import Effort, cpu_environment, measure

    effort = Effort(_ROUNDS.value, _SECONDS.value)
    cases = [(values, cpu_environment(count)) for count in devices]
    cases += [({**values, 'batch_size': size, 'eval_batch_size': size}, {}) for size in sizes]
    rows = []
    for case, environment in cases or [(values, {})]:
        row = measure(
            name,
            case,
            effort=effort,
            peer=bool(_PEER.value),
            environment=environment,
            cold=_COLD.value,
            progress=lambda line: print(line, flush=True),
        )
        rows.append(row)
        if _JSON.value:
            Path(_JSON.value).write_text(json.dumps(rows, indent=1) + '\n')
    print('\n' + report.details(rows[-1]) + '\n\n' + report.table(rows))


if __name__ == '__main__':
    command_line.run(main)
