"""Measures speed: {name} --config=resnet18 [--peer=torch] [--config.FIELD=VALUE ...].

Times the train command's training and evaluation steps, on random data of the same shape as the config's data set. Also:

{name} --suite=cpu --json=cpu.json            # six networks, here and in PyTorch; continues an existing file
{name} --suite=gpu --json=gpu.json            # training step, start-up and speedruns on a GPU, within --minutes
{name} --layers=32x64x64,16x64x128x3x2        # single convolutions; --layers=all for a built-in list
{name} --augmentations=all --config=resnet18  # the cost of each augmentation per image
{name} --decoding=folder:PATH --peer=torch    # decoding pictures, compared with PyTorch's DataLoader
{name} --serving=MODEL --requests=10000       # the serve command, compared with a plain onnxruntime server; hostile requests
{name} --own_loops --config=resnet20          # a step in your own training loop, in NNX and linen
{name} --seeds=4 --config=resnet20            # a step of several seeds, in one program and one after another
{name} --aot=h100 --config=resnet18           # no measurement: the program that XLA compiles for a GPU, without this GPU
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax.cli import command
from resnet_jax.cli.arguments import parse_counts
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.typing import JsonDict

if TYPE_CHECKING:
    from resnet_jax.benchmark.measure import Effort

FLAGS = command.Flags()
FLAGS.define_config()
prepare = command.resolve_config
_PEER = FLAGS.define('enum', 'peer', None, ['torch'], 'Also measure the same network there, in turns.')
_VARIANTS = FLAGS.define('list', 'variants', [], "Words that the peer's variants must have, as bfloat16,channels_last.")
_DEVICES = FLAGS.define('list', 'devices', None, 'Numbers of CPU devices, as 1,2,4: a row for each.')
_BATCH_SIZES = FLAGS.define('list', 'batch_sizes', None, 'Batch sizes, as 32,64,128: a row for each.')
_ROUNDS = FLAGS.define('integer', 'rounds', 5, 'Measurements of each side.', lower_bound=1)
_SECONDS = FLAGS.define(
    'float', 'seconds', 1.0, 'About what one measurement takes; at least one step.', lower_bound=0.01, upper_bound=1e4
)
_STEPS = FLAGS.define('multi_enum', 'steps', ['train', 'eval'], ['train', 'eval'], 'Only this step; may be repeated.')
_STARTUP = FLAGS.define('bool', 'startup', False, 'Also start the train command with an empty compilation cache, and again.')
_SUITE = FLAGS.define('enum', 'suite', None, ['cpu', 'gpu'], 'Measure a list of things.')
_NETWORKS = FLAGS.define('list', 'networks', [], 'With --suite=cpu: only these.')
_RECIPES = ['speedrun94', 'speedrun96']
_SPEEDRUNS = FLAGS.define('list', 'speedruns', _RECIPES, 'With --suite=gpu: configs to train with several seeds.')
_MINUTES = FLAGS.define('float', 'minutes', 8.5, 'With --suite=gpu: the time for everything.', lower_bound=0.1, upper_bound=1e4)
_LAYERS = FLAGS.define('list', 'layers', None, 'Shapes of convolutions, HEIGHTxINxOUT[xKERNEL[xSTRIDE]], or all.')
_AUGMENTATIONS = FLAGS.define('list', 'augmentations', None, 'Augmentations, such as randaugment,cutmix, or all.')
_DECODING = FLAGS.define('string', 'decoding', None, 'Pictures, as folder:PATH, to decode as decode=always does.')
_WORKERS = FLAGS.define('integer', 'workers', 0, 'With --decoding: processes, and threads; 0 for the number of cores.', 0)
_SERVING = FLAGS.define('path', 'serving', None, 'A run folder, exported folder or name, to serve and ask under load.')
_REQUESTS = FLAGS.define('integer', 'requests', 0, 'With --serving: also so many requests, a tenth of them hostile.', 0)
_OWN_LOOPS = FLAGS.define('bool', 'own_loops', False, "A training step in a loop of one's own, in NNX beside linen and optax.")
_SEEDS = FLAGS.define('integer', 'seeds', None, 'A training step of so many seeds, in one program and in turn.', 2, 1000)
_AOT = FLAGS.define('enum', 'aot', None, ['h100', 'h200'], 'Compile the training step for this GPU and count what it does.')
_JSON = FLAGS.define('path', 'json', None, 'File to write: all numbers, versions and hardware; gpu.json with --suite=gpu.')
_say = functools.partial(print, flush=True)
_ALL = (
    *(_PEER, _VARIANTS, _DEVICES, _BATCH_SIZES, _STARTUP, _SUITE, _NETWORKS),
    *(_LAYERS, _AUGMENTATIONS, _DECODING, _WORKERS, _SERVING, _REQUESTS, _OWN_LOOPS, _SEEDS, _AOT, _JSON),
)
_PARTS = ('layers', 'augmentations', 'decoding', 'serving', 'own_loops', 'seeds', 'aot')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax benchmark` with the arguments that are not flags.

    Raises:
      ConfigError: there is an unexpected argument, or see `_check_flags`.
    """
    if arguments or (_SUITE.value == 'cpu' and FLAGS['config'].present):
        extra = arguments[0] if arguments else '--config'
        raise ConfigError(f'unexpected argument {extra!r}; expected flags only, and no --config with --suite=cpu')
    from resnet_jax.benchmark import report, suites
    from resnet_jax.benchmark.measure import Effort

    _check_flags()
    effort = Effort(_ROUNDS.value, _SECONDS.value, tuple(dict.fromkeys(_STEPS.value)))
    sizes = parse_counts('batch_sizes', _BATCH_SIZES.value)
    if _SUITE.value == 'cpu':
        rows = suites.cpu_suite(_JSON.value, effort, _NETWORKS.value, sizes[0] if sizes else 128, _say)
    elif _SUITE.value == 'gpu':
        from resnet_jax.benchmark.gpu_suite import gpu_suite

        config = _config()[1] if FLAGS['config'].present else suites.load_config('resnet18', batch_size=512, dtype='bfloat16')
        runs = {Path(path).stem: suites.find_config(path) for path in _SPEEDRUNS.value}
        gpu_suite(_JSON.value or 'gpu.json', config, runs, seconds=60 * _MINUTES.value, effort=effort, progress=_say)
        print(_JSON.value or 'gpu.json')
        return
    elif _LAYERS.value:
        from resnet_jax.benchmark.layers import measure_layers, parse_shapes, table

        dtype = _config()[1]['dtype'] if FLAGS['config'].present else 'float32'
        rows = measure_layers(parse_shapes(_LAYERS.value), sizes[0] if sizes else 128, dtype, effort, _say)
        report.save(_JSON.value, rows)
        print('\n' + table(rows))
        return
    elif _DECODING.value:
        from resnet_jax.benchmark import decoding

        name, size = decoding.parse_pictures(_DECODING.value, sizes)
        options = {'peer': bool(_PEER.value), 'workers': _WORKERS.value, 'progress': _say}
        row = decoding.measure_decoding(name, size, effort, **options)
        report.save(_JSON.value, row)
        print('\n' + decoding.table(row))
        return
    elif _SERVING.value:
        from resnet_jax.benchmark import serving

        row = serving.measure_serving(_SERVING.value, effort, requests=_REQUESTS.value, progress=_say)
        report.save(_JSON.value, row)
        print('\n' + serving.table(row))
        return
    elif _AOT.value:
        from resnet_jax.benchmark import ahead

        name, config = _config()
        row = ahead.measure_ahead(name, {**config, **({'batch_size': sizes[0]} if sizes else {})}, _AOT.value, _say)
        report.save(_JSON.value, row)
        print('\n' + ahead.table(row))
        return
    elif _OWN_LOOPS.value:
        from resnet_jax.benchmark import own_loops

        name, config = _config()
        row = own_loops.measure_own_loops(name, {**config, **({'batch_size': sizes[0]} if sizes else {})}, effort, _say)
        report.save(_JSON.value, row)
        print('\n' + own_loops.table(row))
        return
    elif _SEEDS.value:
        from resnet_jax.benchmark import seeds

        name, config = _config()
        config |= {'batch_size': sizes[0]} if sizes else {}
        row = seeds.measure_seeds(name, config, _SEEDS.value, effort, _say)
        report.save(_JSON.value, row)
        print('\n' + seeds.table(row))
        return
    elif _AUGMENTATIONS.value:
        from resnet_jax.benchmark.augmentation import measure_augmentations, parse_augmentations, table

        values = {**_config()[1], **({'batch_size': sizes[0]} if sizes else {})}
        rows = measure_augmentations(parse_augmentations(_AUGMENTATIONS.value), values, effort, _say)
        report.save(_JSON.value, rows)
        print('\n' + table(rows))
        return
    else:
        rows = _measure(effort, parse_counts('devices', _DEVICES.value), sizes)
        print('\n' + report.details(rows[-1]))
    print('\n' + report.table(rows))


def _check_flags() -> None:
    """Checks the flags before any measurement.

    Raises:
      ConfigError: --suite or a flag of `_PARTS` would ignore another flag, or --json cannot be written.
    """
    given = {flag.name: flag.value for flag in _ALL}
    suite, path = given['suite'], given['json']
    parts = [f'suite={suite}'] if suite else [name for name in _PARTS if given[name]]
    reason = f'with --{parts[0]}' if parts else ''
    if len(parts) > 1:
        raise ConfigError(f'--{parts[0]} and --{parts[1]} together; expected one of them')
    alone = ['devices', 'startup', 'variants']
    alone += ['peer'] if parts != ['decoding'] else []
    alone += ['batch_sizes'] if suite == 'gpu' or parts == ['serving'] else []
    unused = [(name, reason) for name in alone if reason and given[name]]
    for name, needed in (('workers', 'decoding'), ('requests', 'serving')):
        if given[name] and not given[needed]:
            unused.append((name, f'without --{needed}'))
    if given['networks'] and suite != 'cpu':
        unused.append(('networks', 'without --suite=cpu'))
    if reason and len(given['batch_sizes'] or []) > 1:
        raise ConfigError(f'several --batch_sizes {reason}; expected one')
    for name, where in unused:
        raise ConfigError(f'--{name} says nothing {where}; expected without it')
    if path and not os.access(Path(path).resolve().parent, os.W_OK):
        raise ConfigError(f'--json={path} cannot be written; expected a file in a folder that exists and may be written')


def _measure(effort: 'Effort', devices: Sequence[int], sizes: Sequence[int]) -> list[JsonDict]:
    from resnet_jax.benchmark.measure import cpu_environment, measure
    from resnet_jax.benchmark.report import save

    name, values = _config()
    cases = [(values, cpu_environment(count)) for count in devices]
    cases += [({**values, 'batch_size': size, 'eval_batch_size': size}, {}) for size in sizes]
    options: JsonDict = {
        'peer': bool(_PEER.value),
        'variants': _VARIANTS.value,
        'startup': _STARTUP.value,
        'progress': _say,
    }
    rows = []
    for case, environment in cases or [(values, {})]:
        rows.append(measure(name, case, effort=effort, environment=environment, **options))
        save(_JSON.value, rows)
    return rows


def _config() -> tuple[str, JsonDict]:
    name, config = command.load_config(FLAGS)
    return name, TrainConfig.from_mapping(config).to_dict()
