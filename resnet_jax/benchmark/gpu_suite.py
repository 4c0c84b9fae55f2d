"""All GPU measurements in one command, within a given time."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.benchmark.command import COMMAND, measure_startup, time_to_accuracy, write_config
from resnet_jax.benchmark.measure import Effort, on_random_data
from resnet_jax.benchmark.report import save
from resnet_jax.errors import UserError
from resnet_jax.significance import mean_interval
from resnet_jax.typing import Json, Row

Progress = Callable[[str], None]

_SHORTEST = 5.0  # seconds; a part with less time is skipped


def gpu_suite(
    path: str | None,
    config: Json,
    speedruns: Mapping[str, Json | str],
    *,
    seconds: float,
    effort: Effort,
    progress: Progress,
) -> Row:
    """Measures a config's steps, PyTorch's step, the start of the train command, and complete runs of other configs.

    Each part has separate processes and a time limit, so that a part that fails or takes too long does not affect the others.
    This process does not use the GPU.

    Args:
      path: file of the result, written after each part.
      speedruns: {name: checked config to train with seeds 0, 1, ... while time is left, or the reason why there is none}.
      seconds: total time.

    Returns:
      'versions', 'config' and 'parts'. 'parts' has an entry for 'step', 'evaluation', 'step_without_cuda_graph', 'peer',
      'startup' and each speedrun: its 'seconds' and measurements, or 'error', or 'skipped' with the reason.
    """
    started = time.monotonic()
    result: Row = {'versions': _versions(), 'config': dict(config), 'parts': {}}

    def begin(name: str, share: float, measure: Callable[[float], Row]) -> None:
        """Measures a part within a share of the remaining time."""
        before = time.monotonic()
        left = seconds - (before - started)
        limit = share * left
        progress(f'{name}: at most {limit:.0f} s of the {left:.0f} s left')
        try:
            part = measure(limit) if limit >= _SHORTEST else {'skipped': 'no time left; give more minutes'}
        except UserError as error:
            part = {'error': str(error)}
        except Exception as error:  # report a bug in one part and continue with the others
            part = {'error': f'{type(error).__name__}: {error}'}
        for outcome in ('skipped', 'error'):
            if outcome in part:
                progress(f'{name}: {outcome}: {part[outcome]}')
        result['parts'][name] = {'seconds': round(time.monotonic() - before, 1), **part}
        save(path, result)

    train = ['--steps=train']
    begin('step', 0.15, lambda limit: _epoch(_measure(config, effort, limit, train)))
    begin('evaluation', 0.1, lambda limit: _measure(config, effort, limit, ['--steps=eval']))
    alone = {**config, 'cuda_graph': False}
    begin('step_without_cuda_graph', 0.15, lambda limit: _epoch(_measure(alone, effort, limit, train)))
    # Only the PyTorch variant of the speed records, whose weights have half precision too: a variant compiles for a minute.
    peer = ['--peer=torch', *train, f'--variants={config["dtype"]}']
    begin('peer', 0.45, lambda limit: _epoch(_measure(config, effort, limit, peer)))
    begin('startup', 0.35, lambda limit: measure_startup(on_random_data(config), limit=limit / 2, progress=progress))
    for number, (name, speedrun) in enumerate(speedruns.items()):  # seeds use all the remaining time
        share = 0.95 / (len(speedruns) - number)
        begin(name, share, lambda limit, name=name, speedrun=speedrun: _seeds(name, speedrun, limit, progress))  # type: ignore[misc]
    return result


def _versions() -> dict[str, str]:
    versions = {}
    for name in ('resnet_jax', 'jax', 'jaxlib', 'flax', 'torch'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _measure(config: Json, effort: Effort, limit: float, flags: Sequence[str]) -> Row:
    """Returns the row of the benchmark command, run as a subprocess so that all of its processes can be killed together.

    Raises:
      UserError: the command failed or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, out = write_config(Path(folder, 'config.py'), config), Path(folder, 'row.json')
        command = [*COMMAND, 'benchmark', *plugins.import_flags(), f'--config={file}', f'--json={out}']
        command += [f'--rounds={effort.rounds}', f'--seconds={effort.seconds}', *flags]
        with Path(folder, 'errors').open('w+') as errors:
            process = subprocess.Popen(command, stderr=errors, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                raise UserError(f'not done after {limit:.0f} s') from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if code:
                errors.seek(0)
                lines = [line for line in errors.read().splitlines() if line.strip()] or [f'exit code {code}']
                told = [line for line in lines if line.startswith('error: ')]
                raise UserError((told or lines)[-1].removeprefix('error: '))
        row: Row = json.loads(out.read_text())[0]
        return row


def _epoch(row: Row) -> Row:
    """Adds the seconds for an epoch of 50,000 images at the median speed."""
    return {'epoch_seconds': 50_000 / row['train']['images_per_second']['median'], **row}


def _seeds(name: str, config: Json | str, limit: float, progress: Progress) -> Row:
    """Trains seeds 0, 1, ... to the end, each in a separate process, while time is left."""
    if isinstance(config, str):
        return {'skipped': config}
    # Evaluate and save only at the end, like the speed records.
    once = {'eval_every_steps': 0, 'eval_every_epochs': config['num_epochs'], 'checkpoint_every_epochs': config['num_epochs']}
    started = time.monotonic()
    runs: list[dict[str, float]] = []
    ended = 'no time for another'
    with tempfile.TemporaryDirectory() as folder:
        while True:
            left = limit - (time.monotonic() - started)
            if runs and left < 1.2 * runs[-1]['process_seconds']:
                break
            try:
                run = time_to_accuracy({**config, **once, 'seed': len(runs)}, Path(folder, str(len(runs))), left)
            except UserError as error:
                if not runs:
                    return {'skipped': str(error)}
                ended = f'seed {len(runs)}: {error}'
                break
            runs.append({'seed': len(runs), **run})
            progress(
                f'{name}, seed {len(runs) - 1}: accuracy {100 * run["accuracy"]:.2f} %, '
                f'training {run["training_seconds"]:.2f} s, process {run["process_seconds"]:.1f} s'
            )
    keys = ('accuracy', 'training_seconds', 'process_seconds')
    summary = {key: dataclasses.asdict(mean_interval([run[key] for run in runs])) for key in keys}
    return {**summary, 'runs': runs, 'ended': ended}
