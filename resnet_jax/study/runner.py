"""Executes a study's runs in separate processes, so that a run that fails or lacks memory does not end the others."""

import ctypes
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.config import TrainConfig
from resnet_jax.config_changes import check_continues
from resnet_jax.errors import Interrupted
from resnet_jax.runs.documents import config_of
from resnet_jax.runs.reader import read_run
from resnet_jax.runs.rows import METRICS, read_rows
from resnet_jax.runtime.console import duration
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.untrusted import check_owned_files, parse_json, read_text
from resnet_jax.study.entries import StudyRun

logger = logging.getLogger(__name__)
Job = tuple[StudyRun, ...]  # the runs of one process: one run, or all seeds of an entry

_IN_USE = 6
_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None
_PATIENCE = 300.0  # seconds to wait for a run of a killed study to save its state


def status(run: StudyRun) -> str:
    """Returns 'finished', 'failed', 'started' or 'new', from the files in the run's folder."""
    if (run.folder / 'result.json').is_file():
        return 'finished'
    if (run.folder / 'failed.json').is_file():
        return 'failed'
    return 'started' if (run.folder / METRICS).is_file() else 'new'


def check_made_alike(runs: Sequence[StudyRun]) -> None:
    """Checks that the runs in the folders have the study's current configs.

    Raises:
      ConfigError: a config differs; names the folder and the fields.
      InputFileError: this version does not accept a config.
    """
    for run in runs:
        try:
            old = parse_json(read_text(run.folder / 'config.json'))
        except (OSError, ValueError):
            continue
        if isinstance(old, dict):
            before = config_of(old, run.folder / 'config.json')
            check_continues(before, TrainConfig.from_mapping(run.config), str(run.folder))


def weigh(runs: Sequence[StudyRun]) -> list[float]:
    """Returns the cost of each run: its multiply-adds, or 1 for each run if counting fails or no runs are left.

    Counts in a separate process that does not use the devices.
    """
    if all(status(run) in ('finished', 'failed') for run in runs):
        return [1.0] * len(runs)
    done = subprocess.run(
        [sys.executable, '-m', 'resnet_jax.study.forecast', *plugins.imported],
        input=json.dumps([run.config for run in runs]),
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )
    weights = json.loads(done.stdout) if done.returncode == 0 else []
    return weights if any(weights) else [1.0] * len(runs)


def make_runs(
    runs: Sequence[StudyRun],
    devices: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    weights: Sequence[float] | None = None,
    needed: Callable[[StudyRun], bool] = lambda run: True,
    together: bool = False,
) -> dict[str, int]:
    """Executes the unfinished runs one after the other, or as many at once as there are `devices`.

    Interrupted runs continue. Runs that diverged or ran out of memory are not repeated: they have failed.json in their folders.
    A run's config is study_config.py in its folder, so that
    `resnet-jax train --config=FOLDER/study_config.py --workdir=FOLDER` executes only this run.

    Args:
      devices: ids of GPUs; each gets one run at a time, through CUDA_VISIBLE_DEVICES.
      progress: called several times a second with the completed share of the study.
      weights: cost of each run: see `weigh`.
      needed: returns whether a run is still needed; called before the run starts. Other runs are skipped.
      together: give all seeds of an entry to one process, which trains them like `train --seeds`: on a GPU in one program.

    Returns:
      {folder: exit code} of the runs that did not finish.

    Raises:
      Interrupted: SIGINT or SIGTERM arrived; the runs were stopped and have saved their state.
    """
    waiting = _jobs(runs, together)
    free: list[str | None] = list(devices) or [None]
    weights = weights or [1.0] * len(runs)
    spared: list[StudyRun] = []
    started, before = time.monotonic(), _share(runs, weights, spared)
    active: dict[subprocess.Popen[bytes], tuple[Job, str | None]] = {}
    failed: dict[str, int] = {}
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: stopped.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while (waiting and not stopped) or active:
            while waiting and free and not stopped:
                job = waiting.pop(0)
                if not all(map(needed, job)):
                    spared.extend(job)
                    logger.info('%s is left out: its comparison is decided', _folder(job))
                    continue
                device = free.pop(0)
                active[_start(job, device)] = job, device
                logger.info('%s starts; its output goes to output.log there', _folder(job))
            time.sleep(0.2)
            if stopped:
                for process in active:
                    process.send_signal(signal.SIGTERM)
                for process in active:
                    process.wait()
                raise Interrupted(stopped[0])
            for process in [process for process in active if process.poll() is not None]:
                job, device = active.pop(process)
                free.append(device)
                if process.returncode == _IN_USE and time.monotonic() - started < _PATIENCE:
                    waiting.append(job)  # retry after the other runs, or after a second if there are none
                    time.sleep(1)
                elif process.returncode:
                    failed |= {str(run.folder): process.returncode for run in job if status(run) != 'finished'}
                    _note(_folder(job), process.returncode)
                else:
                    share = _share(runs, weights, spared)
                    accuracy = statistics.mean(read_run(run.folder).result.get('accuracy', math.nan) for run in job)
                    left = (1 - share) * (time.monotonic() - started) / max(share - before, 1e-9)
                    done = f'{100 * share:.0f} % of the whole done, about {duration(left)} left'
                    logger.info('%s: test accuracy %.2f %%; %s', _folder(job), 100 * accuracy, done)
            if progress:
                progress(_share(runs, weights, spared))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return failed


def _share(runs: Sequence[StudyRun], weights: Sequence[float], spared: Sequence[StudyRun]) -> float:
    shares = (1.0 if run in spared else epochs_done(run) / run.config['num_epochs'] for run in runs)
    done = (weight * share for share, weight in zip(shares, weights, strict=True))
    return float(sum(done) / sum(weights))


def _jobs(runs: Sequence[StudyRun], together: bool) -> list[Job]:
    """Groups unfinished runs into jobs; if `together`, one per entry with consecutive seeds of which none has ended."""
    waiting = [run for run in runs if status(run) in ('new', 'started')]
    if not together:
        return [(run,) for run in waiting]
    jobs: list[Job] = []
    for entry in dict.fromkeys(run.entry for run in waiting):
        left, seeds = [run for run in waiting if run.entry == entry], [run.seed for run in runs if run.entry == entry]
        follow = seeds == list(range(seeds[0], seeds[0] + len(left)))
        jobs += [tuple(left)] if follow else [(run,) for run in left]
    return jobs


def _folder(job: Job) -> Path:
    return job[0].folder if len(job) == 1 else job[0].folder.parent


def _start(job: Job, device: str | None) -> subprocess.Popen[bytes]:
    run, folder = job[0], _folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    check_owned_files(folder)
    config = folder / 'study_config.py'
    seeds = [f'--seeds={len(job)}'] if len(job) > 1 else []
    text = (
        f'"""Written by the study command: {run.entry}, seed {run.seed}."""\n\nfrom ml_collections import ConfigDict\n\n\n'
        f'def get_config():\n    return ConfigDict({run.config!r})\n'
    )
    write_atomically(config, text)
    command = [sys.executable, '-m', 'resnet_jax', 'train', *plugins.import_flags()]
    environment = dict(os.environ) if device is None else {**os.environ, 'CUDA_VISIBLE_DEVICES': device}
    with (folder / 'output.log').open('a') as log:
        return subprocess.Popen(
            [*command, f'--config={config}', f'--workdir={folder}', *seeds],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which forwards it
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Makes Linux send SIGTERM when the study's process ends, even by SIGKILL, so that the run saves its state."""
    if _LIBC:
        _LIBC.prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def _note(folder: Path, code: int) -> None:
    lines = read_text(folder / 'output.log').splitlines()
    reason = next((line for line in reversed(lines) if line.startswith('error: ')), f'exit code {code}')
    logger.warning('%s: %s', folder, reason)


def epochs_done(run: StudyRun) -> float:
    """Returns the number of epochs that a run has logged; for a failed run all, because it will not be repeated."""
    if status(run) in ('finished', 'failed'):
        return float(run.config['num_epochs'])
    try:
        return float(max((row['epoch'] for row in read_rows(run.folder / METRICS)), default=0.0))
    except (OSError, KeyError, TypeError, ValueError):
        return 0.0
