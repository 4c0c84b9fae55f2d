"""Measures speed: python bin/benchmark.py --config=configs/resnet18.py [--peer=torch] [--config.FIELD=VALUE ...].

The training and evaluation steps are the very ones of bin/train.py, on random data of the shape of the config's. Also:

python bin/benchmark.py --suite=cpu --json=cpu.json            # six networks beside PyTorch; continues what the file has
python bin/benchmark.py --suite=gpu --json=gpu.json            # a GPU's training step, start-up, speedruns, in --minutes
python bin/benchmark.py --layers=32x64x64,16x64x128x3x2        # single convolutions; --layers=all for a list of them
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # config files import configs.default

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError

_CONFIG = command_line.define_config_flag()
_PEER = flags.DEFINE_enum('peer', None, ['torch'], 'Also measure the same network there, in turns.')
_VARIANTS = flags.DEFINE_list('variants', [], "Words that the peer's variants must have, as bfloat16,channels_last.")
_DEVICES = flags.DEFINE_list('devices', None, 'Numbers of CPU devices, as 1,2,4: a row for each.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', None, 'Batch sizes, as 32,64,128: a row for each.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Measurements of each side.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'About what one measurement takes; at least one step.', lower_bound=0.01)
_STEPS = flags.DEFINE_multi_enum('steps', ['train', 'eval'], ['train', 'eval'], 'Only this step; may be repeated.')
_STARTUP = flags.DEFINE_bool('startup', False, 'Also start bin/train.py with an empty compilation cache, and again.')
_SUITE = flags.DEFINE_enum('suite', None, ['cpu', 'gpu'], 'Measure a list of things.')
_NETWORKS = flags.DEFINE_list('networks', [], 'With --suite=cpu: only these.')
_RECIPES = ['configs/speedrun94.py', 'configs/speedrun96.py']
_SPEEDRUNS = flags.DEFINE_list('speedruns', _RECIPES, 'With --suite=gpu: configs to train with several seeds.')
_MINUTES = flags.DEFINE_float('minutes', 8.5, 'With --suite=gpu: the time for everything.', lower_bound=0.1)
_LAYERS = flags.DEFINE_list('layers', None, 'Shapes of convolutions, HEIGHTxINxOUT[xKERNEL[xSTRIDE]], or all.')
_JSON = flags.DEFINE_string('json', None, 'File to write: all numbers, versions and hardware; gpu.json with --suite=gpu.')
_say = functools.partial(print, flush=True)
_ALL = _PEER, _VARIANTS, _DEVICES, _BATCH_SIZES, _STARTUP, _SUITE, _NETWORKS, _LAYERS, _JSON
for _flag in (_SECONDS, _MINUTES):
    flags.register_validator(_flag, lambda value: value <= 10_000, message='expected a number of at most 10,000')


def main(arguments):
    if arguments or (_SUITE.value == 'cpu' and _CONFIG.present):
        extra = arguments[0] if arguments else '--config'
        raise ConfigError(f'unexpected argument {extra!r}; expected flags only, and no --config with --suite=cpu')
    from resnet_jax.benchmark import report, suites
    from resnet_jax.benchmark.command import check_flags
    from resnet_jax.benchmark.measure import Effort

    check_flags({flag.name: flag.value for flag in _ALL})
    effort = Effort(_ROUNDS.value, _SECONDS.value, tuple(dict.fromkeys(_STEPS.value)))
    sizes = command_line.parse_counts('batch_sizes', _BATCH_SIZES.value)
    if _SUITE.value == 'cpu':
        rows = suites.cpu_suite(_JSON.value, effort, _NETWORKS.value, sizes[0] if sizes else 128, _say)
    elif _SUITE.value == 'gpu':
        from resnet_jax.benchmark.gpu_suite import gpu_suite

        config = _config()[1] if _CONFIG.present else suites.load_config('resnet18', batch_size=512, dtype='bfloat16')
        runs = {Path(path).stem: suites.find_config(path) for path in _SPEEDRUNS.value}
        gpu_suite(_JSON.value or 'gpu.json', config, runs, seconds=60 * _MINUTES.value, effort=effort, progress=_say)
        return print(_JSON.value or 'gpu.json')
    elif _LAYERS.value:
        from resnet_jax.benchmark.layers import measure_layers, parse_shapes, table

        dtype = _config()[1]['dtype'] if _CONFIG.present else 'float32'
        rows = measure_layers(parse_shapes(_LAYERS.value), sizes[0] if sizes else 128, dtype, effort, _say)
        report.save(_JSON.value, rows)
        return print('\n' + table(rows))
    else:
        rows = _measure(effort, command_line.parse_counts('devices', _DEVICES.value), sizes)
        print('\n' + report.details(rows[-1]))
    print('\n' + report.table(rows))


def _measure(effort, devices, sizes):
    from resnet_jax.benchmark.measure import cpu_environment, measure
    from resnet_jax.benchmark.report import save

    name, values = _config()
    cases = [(values, cpu_environment(count)) for count in devices]
    cases += [({**values, 'batch_size': size, 'eval_batch_size': size}, {}) for size in sizes]
    options = {'peer': bool(_PEER.value), 'variants': _VARIANTS.value, 'startup': _STARTUP.value, 'progress': _say}
    rows = []
    for case, environment in cases or [(values, {})]:
        rows.append(measure(name, case, effort=effort, environment=environment, **options))
        save(_JSON.value, rows)
    return rows


def _config():
    name, config = command_line.load_config(_CONFIG)
    return name, TrainConfig.from_mapping(config).to_dict()


if __name__ == '__main__':
    command_line.run(main)
