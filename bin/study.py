"""Makes every run of a study, or what is left of it, then its report: python bin/study.py --config=configs/study/paper.py

A study that was interrupted continues with the same command; --dry_run says what it would do. This process leaves JAX and its
devices to those of the runs.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from resnet_jax.cli import command_line
from resnet_jax.errors import ConfigError, UserError

_CONFIG = flags.DEFINE_string('config', None, 'Study, e.g. configs/study/paper.py')
_SIZE = flags.DEFINE_string('size', None, "One of the study's sizes; default: its first.")
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs; default runs/study/<name>-<size>.')
_DEVICES = flags.DEFINE_list('devices', [], 'GPUs, as 0,1: each trains one run at a time. Default: one run after the other.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Say what would run, and how long it takes.')
_REPORT_ONLY = flags.DEFINE_bool('report_only', False, 'Only report what is there.')


def main(arguments):
    if arguments or not _CONFIG.value or not Path(_CONFIG.value).is_file():
        raise ConfigError(f'no study {arguments[0] if arguments else _CONFIG.value!r}; expected --config=configs/study/NAME.py')
    from resnet_jax.config import TrainConfig
    from resnet_jax.study.entries import expand, load_study
    from resnet_jax.study.report import write_study_report
    from resnet_jax.study.runner import check_made_alike, make_runs, status, weigh

    package = logging.getLogger('resnet_jax')
    package.addHandler(logging.StreamHandler())
    package.propagate = False
    if not sys.stdout.isatty():
        package.setLevel(logging.INFO)  # plain lines instead of the bar
    study, name = load_study(_CONFIG.value), Path(_CONFIG.value).stem
    size = _SIZE.value or next(iter(study['sizes']))
    folder = Path(_WORKDIR.value or Path('runs', 'study', f'{name}-{size}'))
    runs = expand(study, size, folder)
    for run in runs:
        TrainConfig.from_mapping(run.config)
    check_made_alike(runs)
    if _DRY_RUN.value:
        for run in runs:
            print(f'{run.folder}: {status(run)}, {run.config["model"]}, {run.config["num_epochs"]} epochs')
        from resnet_jax.study.forecast import estimate

        print(estimate(runs, at_once=max(len(_DEVICES.value), 1)))
        return
    failed = {}
    if not _REPORT_ONLY.value:
        from rich.progress import Progress

        here = Path(__file__).resolve().parent
        weights = weigh(runs, here.parent)
        # With the time left, from the speed of an hour: a run may say nothing of itself for minutes.
        with Progress(disable=not sys.stdout.isatty(), refresh_per_second=2, speed_estimate_period=3600) as bar:
            task = bar.add_task(name, total=1.0)
            failed = make_runs(runs, here / 'train.py', _DEVICES.value, lambda done: bar.update(task, completed=done), weights)
    print(write_study_report({'name': f'{name}, size {size}', **study}, runs, folder))
    unexpected = [f'{run} (exit code {code})' for run, code in failed.items() if not Path(run, 'failed.json').is_file()]
    if unexpected:
        raise UserError(f'{", ".join(unexpected)} did not finish; see output.log there; the same command tries again')


if __name__ == '__main__':
    command_line.run(main)
