"""Executes all runs of a study, or the remaining runs, then writes its report: {name} --config=paper

The same command continues an interrupted study; --dry_run shows what it would do. Only the processes of the runs use JAX's
devices.
"""

import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_jax import config_file, plugins
from resnet_jax.cli import command
from resnet_jax.errors import ConfigError, UserError

FLAGS = command.Flags()
FLAGS.define('string', 'config', None, 'Study: a name, such as paper, or a file.')
FLAGS.define('string', 'size', None, "One of the study's sizes; default: its first.")
FLAGS.define('integer', 'seeds', 0, "Number of seeds, from 0 on; default: the size's own.", 0)
FLAGS.define('bool', 'stop_when_decided', False, 'Make no more runs of an entry that is already better or worse.')
FLAGS.define('bool', 'together', False, 'Train the seeds of an entry in one process: on a GPU, in one program.')
FLAGS.define('path', 'workdir', None, 'Folder of the runs; default runs/study/<name>-<size>.')
FLAGS.define('list', 'devices', [], 'GPUs, as 0,1: each trains one run at a time. Default: one run after the other.')
FLAGS.define('bool', 'dry_run', False, 'Say what would run, and how long it takes.')
FLAGS.define('bool', 'report_only', False, 'Only report what is there.')


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax study` with the arguments that are not flags.

    Raises:
      ConfigError: flags are missing or contradict each other.
      UserError: a run did not finish.
    """
    if arguments or not FLAGS.value('config'):
        wrong = f'unexpected argument {arguments[0]!r}' if arguments else 'no study given'
        raise ConfigError(f'{wrong}; expected --config=NAME or FILE, as --config=paper')
    path = config_file.find(FLAGS.value('config'), 'study')
    from resnet_jax.config import TrainConfig
    from resnet_jax.study.entries import expand, load_study
    from resnet_jax.study.report import is_needed, write_study_report
    from resnet_jax.study.runner import check_made_alike, make_runs, status, weigh

    package = logging.getLogger('resnet_jax')
    package.addHandler(logging.StreamHandler())
    package.propagate = False
    if not sys.stdout.isatty():
        package.setLevel(logging.INFO)  # shows plain lines instead of the bar
    study, name, devices = load_study(path), path.stem, FLAGS.value('devices')
    plugins.import_modules(study.get('imports', []))
    size = FLAGS.value('size') or next(iter(study['sizes']))
    folder = Path(FLAGS.value('workdir') or Path('runs', 'study', f'{name}-{size}'))
    runs = expand(study, size, folder, FLAGS.value('seeds'))
    if FLAGS.value('stop_when_decided'):
        if FLAGS.value('together'):
            raise ConfigError('--together makes all seeds of an entry; expected it without --stop_when_decided')
        study['looks'] = max(1, len({run.seed for run in runs}) - 1)  # one for each seed, from the second on
    for run in runs:
        TrainConfig.from_mapping(run.config)
    check_made_alike(runs)
    if FLAGS.value('dry_run'):
        for run in runs:
            print(f'{run.folder}: {status(run)}, {run.config["model"]}, {run.config["num_epochs"]} epochs')
        from resnet_jax.study.forecast import estimate

        print(estimate(runs, at_once=max(len(devices), 1)))
        return
    failed: dict[str, int] = {}
    if not FLAGS.value('report_only'):
        from rich.progress import Progress

        weights = weigh(runs)
        # Estimates the remaining time from the speed over an hour, because a run may report no progress for minutes.
        with Progress(disable=not sys.stdout.isatty(), refresh_per_second=2, speed_estimate_period=3600) as bar:
            task = bar.add_task(name, total=1.0)
            options = {'needed': functools.partial(is_needed, study, runs)} if FLAGS.value('stop_when_decided') else {}
            advance = functools.partial(bar.update, task)
            together = FLAGS.value('together')
            failed = make_runs(runs, devices, lambda done: advance(completed=done), weights, together=together, **options)
    print(write_study_report({'name': f'{name}, size {size}', **study}, runs, folder))
    unexpected = [f'{run} (exit code {code})' for run, code in failed.items() if not Path(run, 'failed.json').is_file()]
    if unexpected:
        raise UserError(f'{", ".join(unexpected)} did not finish; see output.log there; the same command tries again')
