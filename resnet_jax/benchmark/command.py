"""Runs the train command like a user, and records the time of each line of its output."""

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resnet_jax import plugins
from resnet_jax.errors import UserError
from resnet_jax.typing import Json

COMMAND = [sys.executable, '-m', 'resnet_jax']
_STARTS = re.compile(r'Iteration \d+ starts .* took ([\d.]+) s\.$')


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of output and its time in seconds since the start of the process."""

    seconds: float
    text: str


def write_config(path: Path, config: Json) -> Path:
    """Writes a checked config as a file for --config, and returns its path."""
    path.write_text(f'from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({dict(config)!r})\n')
    return path


def train(
    config: Json, folder: Path, environment: Mapping[str, str | None] | None = None, limit: float | None = None
) -> Iterator[Line]:
    """Runs the train command in a run folder and yields its output; closing the iterator ends the process.

    Args:
      environment: changes to this process's environment; None unsets a variable.
      limit: seconds after which the process is killed.

    Raises:
      UserError: the command failed or took too long; contains its last line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [*COMMAND, 'train', *plugins.import_flags(), f'--config={write_config(folder / "benchmark.py", config)}']
    changed = {**os.environ, 'PYTHONUNBUFFERED': '1', **(environment or {})}
    env = {name: value for name, value in changed.items() if value is not None}
    before, late = time.monotonic(), threading.Event()
    process = subprocess.Popen(
        [*command, f'--workdir={folder}'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    assert process.stdout

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, end) if limit else None
    if timer:
        timer.start()
    last = ''
    try:
        for text in process.stdout:
            last = text.strip() or last
            yield Line(time.monotonic() - before, text.rstrip('\n'))
        process.wait()
        if late.is_set():
            raise UserError(f'the train command was not done after {limit:.0f} s; its last line: {last}')
        if process.returncode:
            raise UserError(f'the train command ended with exit code {process.returncode}: {last.removeprefix("error: ")}')
    finally:
        if timer:
            timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def measure_startup(
    config: Json,
    environment: Mapping[str, str] | None = None,
    limit: float | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float]]:
    """Starts the train command with an empty compilation cache, and again with the cache that the first start filled.

    Args:
      config: a checked config; use random data, otherwise the first start also decodes images.
      limit: seconds for each start.

    Returns:
      For 'cold' and 'warm': the seconds from the start of the process until the first training step 'starts' and until it is
      'done', and the seconds of these to 'compile' the step or to read it from the cache.
    """
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        own_cache = {'RESNET_JAX_CACHE_DIR': f'{folder}/cache', 'JAX_COMPILATION_CACHE_DIR': None}
        own_cache |= {'JAX_ENABLE_COMPILATION_CACHE': None, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': None}
        for name in ('cold', 'warm'):
            lines = train({**config, 'log_every': 1}, Path(folder, name), {**(environment or {}), **own_cache}, limit)
            row: dict[str, float] = {}
            for line in lines:
                if matched := _STARTS.match(line.text):
                    row = {'starts': line.seconds, 'compile': float(matched[1])}
                elif line.text.startswith('Iteration ') and row:
                    row['done'] = line.seconds
                    break
            lines.close()  # type: ignore[attr-defined]
            result[name] = row
            progress(f'{name} start: first training step after {row["starts"]:.1f} s, done after {row["done"]:.1f} s')
    return result


def time_to_accuracy(config: Json, folder: Path, limit: float) -> dict[str, float]:
    """Trains once to the end, in a separate process.

    Returns:
      'accuracy' on the test set; 'training_seconds' from the start of the first training step, after compilation, to the end of
      the last step, including evaluations in between; 'process_seconds', which also includes start, compilation, last
      evaluation and report.
    """
    started = trained = last = accuracy = float('nan')
    for line in train(config, folder, limit=limit):
        last = line.seconds
        if _STARTS.match(line.text):
            started = line.seconds
        elif line.text.startswith('Iteration '):
            trained = line.seconds
        elif matched := re.match(r'Test accuracy ([\d.]+) %', line.text):
            accuracy = float(matched[1]) / 100
    return {'accuracy': accuracy, 'training_seconds': trained - started, 'process_seconds': last}
