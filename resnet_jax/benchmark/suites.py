"""Compares six networks with PyTorch on a CPU, one network after the other, in one command."""

import datetime
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from resnet_jax import config_file
from resnet_jax.benchmark.measure import Effort, measure
from resnet_jax.benchmark.report import save
from resnet_jax.config import TrainConfig, choices
from resnet_jax.errors import ConfigError, InputFileError, UserError
from resnet_jax.typing import Row

# Config file and model of each network.
_CPU = {
    'resnet18': ('resnet18', 'resnet18'),
    'resnet20': ('resnet20', 'resnet20'),
    'resnet50': ('resnet18', 'resnet50'),
    'd2l_resnet18': ('d2l_resnet18', 'd2l_resnet18'),
    'alexnet': ('alexnet', 'alexnet'),
    'wrn_16_4': ('wrn28_10', 'wrn_16_4'),
}


def load_config(name: str, **changes: object) -> Row:
    """Returns the checked config of a name or path, with changes applied."""
    config = config_file.load_config(name)
    with config.unlocked():
        config.update(changes)
    return TrainConfig.from_mapping(config).to_dict()


def has_amx() -> bool:
    """Returns whether the CPU multiplies bfloat16 matrices in hardware (Intel's AMX, as listed by Linux)."""
    try:
        return 'amx_bf16' in Path('/proc/cpuinfo').read_text()
    except OSError:
        return False


def find_config(name: str) -> Row | str:
    """Returns the checked config of a name or path, or the reason why it is unavailable."""
    try:
        return load_config(name)
    except ConfigError as error:
        return str(error)


def cpu_suite(
    path: str | None, effort: Effort, networks: Sequence[str], batch_size: int, progress: Callable[[str], None]
) -> list[Row]:
    """Measures networks against PyTorch, in float32 and, if the CPU has AMX, in bfloat16.

    Args:
      path: file of the rows, written after each row; rows in an existing file are kept and not measured again.
      networks: some of the six; empty for all.

    Returns:
      The rows of `measure`, each with the 'time' at which it was done, or with 'error' instead of measurements.

    Raises:
      ConfigError: there is no such network.
      InputFileError: the file has other contents.
    """
    if unknown := set(networks) - {*_CPU}:
        raise ConfigError(f'no network {unknown.pop()!r} in the suite; expected some of {", ".join(_CPU)}')
    dtypes = [*choices('dtype')] if has_amx() else ['float32']
    if not has_amx():
        progress('no AMX: bfloat16 is not measured')
    rows = _earlier(path)
    done = {(row['name'], row['dtype'], row['batch_size']) for row in rows if 'error' not in row}
    cases = [(name, dtype, batch_size) for dtype in dtypes for name in networks or _CPU]
    waiting = [case for case in cases if case not in done]
    if len(waiting) < len(cases):
        progress(f'{len(cases) - len(waiting)} of {len(cases)} are in {path} already; delete it to measure them again')
    expected = len(waiting) * (90 + 4 * (effort.rounds + 2) * max(effort.seconds, 3))  # seconds, on 2 cores; corrected below
    started = time.monotonic()
    for count, case in enumerate(waiting):
        if count:
            expected = (time.monotonic() - started) / count * (len(waiting) - count)
        name, dtype, _ = case
        progress(f'{name}, {dtype}: {count + 1} of {len(waiting)}; about {expected / 60:.0f} minutes left')
        file, model = _CPU[name]
        config = load_config(file, model=model, dtype=dtype, batch_size=batch_size, eval_batch_size=batch_size)
        try:
            row = measure(name, config, effort=effort, peer=True, progress=progress)
        except UserError as error:
            row = {'name': name, 'dtype': dtype, 'batch_size': batch_size, 'error': str(error)}
            progress(f'{name}: {error}')
        row['time'] = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        rows = [row for row in rows if (row['name'], row['dtype'], row['batch_size']) != case] + [row]
        save(path, rows)
    return rows


def _earlier(path: str | None) -> list[Row]:
    if not path or not Path(path).exists():
        return []
    try:
        rows: list[Row] = json.loads(Path(path).read_text())
        if not all({'name', 'dtype', 'batch_size', 'time'} <= {*row} for row in rows):
            raise ValueError('rows are missing')
    except (OSError, ValueError, TypeError) as error:
        raise InputFileError(f'{path} is not what this suite writes ({error}); choose another file, or delete it') from None
    return rows
