"""Checkpoints: Orbax writes the arrays; this module makes them atomic, checked byte for byte, and bounded in number.

A checkpoint is a folder named by its step:

    checkpoints/391/arrays/...      Orbax's files: every leaf of the TrainState, by name
    checkpoints/391/metadata.json   format, step, config, data set, best evaluation so far, versions
    checkpoints/391/SHA256SUMS      of every file above, as `sha256sum -c` reads it

It does not depend on the number of devices. It is written under a temporary name and renamed when it is whole.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import ConfigError, InputFileError, ResourceError
from resnet_jax.training.state import TrainState

logger = logging.getLogger(__name__)

FORMAT = 1
_SUMS = 'SHA256SUMS'
_PARTIAL = '.partial-'


def _checkpointer():
    import orbax.checkpoint as ocp  # takes a second: only when it is needed

    # One process writes and each reads for itself, so Orbax must not wait for the others.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f'process{process}'
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path, e.g. 'params/conv1/kernel'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def save(folder: Path, state: TrainState, metadata: Mapping[str, Any]) -> Path:
    """Writes `folder/<step>` and returns it. Call it in one process.

    Raises:
      ResourceError: no space or no permission; nothing is left behind.
    """
    step = int(state.step)
    final, partial, old = folder / str(step), folder / f'{_PARTIAL}{step}', folder / f'{_PARTIAL}{step}-old'
    nested: dict[str, Any] = {}
    for name, leaf in leaves_by_name(state).items():
        *parents, last = name.split('/')
        branch = nested
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = np.asarray(leaf)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save((partial / 'arrays').absolute(), nested)
        text = json.dumps({'format': FORMAT, 'step': step, **metadata}, indent=1)
        (partial / 'metadata.json').write_text(text)
        (partial / _SUMS).write_text(_sums_text(partial))
        for path in sorted(partial.rglob('*')):
            _sync(path)
        _sync(partial)
        if final.exists():  # of the same step: a run that was interrupted at the end of an epoch
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        partial.rename(final)
        _sync(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not final.exists():
            old.rename(final)
        # TensorStore reports what the system says as a ValueError, with the number in the text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if not number and not isinstance(error, OSError):
            raise
        reason = os.strerror(int(number[1])) if number else str(error)
        raise ResourceError(
            f'checkpoint {final} could not be written: {reason}; free space or choose another --workdir'
        ) from None
    return final


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from printing the traceback of each of its threads beside the error that it raises."""
    absl = logging.getLogger('absl')
    level = absl.level
    absl.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        absl.setLevel(level)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob('*') if not p.is_dir() or p.is_symlink())


def _sums_text(path: Path) -> str:
    """The checksums of a folder, closed by their own, which `sha256sum -c` reads as a comment."""
    lines = ''.join(f'{_sha256(path / name)}  {name}\n' for name in _files(path) if name != _SUMS)
    return lines + f'# {hashlib.sha256(lines.encode()).hexdigest()}\n'


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def verify(path: Path) -> None:
    """Checks every byte of a checkpoint.

    Raises:
      InputFileError: names the first file that is missing, extra or changed.
    """

    def damaged(name: str, reason: str):
        return InputFileError(f'checkpoint {path} is damaged: {name} {reason}; expected what {_SUMS} lists')

    try:
        names = _files(path)
        for name in names:
            if (path / name).is_symlink() or not (path / name).is_file():
                raise damaged(name, 'is not a regular file')
        if _SUMS not in names:
            raise damaged(_SUMS, 'is missing')
        text = (path / _SUMS).read_bytes().decode(errors='replace')
        lines, _, _ = text.rpartition('# ')
        if text != lines + f'# {hashlib.sha256(lines.encode()).hexdigest()}\n':
            raise damaged(_SUMS, 'does not match its own checksum')
        expected = {name: digest for digest, _, name in (line.partition('  ') for line in lines.splitlines())}
        for name in sorted({*expected, *names} - {_SUMS}):
            if name not in names:
                raise damaged(name, 'is missing')
            if name not in expected:
                raise damaged(name, 'does not belong to it')
            if _sha256(path / name) != expected[name]:
                raise damaged(name, 'has changed')
    except OSError as error:
        raise InputFileError(f'checkpoint {path} cannot be read: {error}') from None


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata of a checkpoint that `verify` has passed.

    Raises:
      InputFileError: it was written in a newer format.
    """
    metadata = json.loads((path / 'metadata.json').read_text())
    if metadata['format'] > FORMAT:
        raise InputFileError(
            f'checkpoint {path} has format {metadata["format"]}; this version reads up to {FORMAT}: upgrade resnet_jax'
        )
    return metadata


def restore(path: Path, template: Any) -> Any:
    """Reads arrays into the structure of `template` (arrays or ShapeDtypeStructs); may be a part of a TrainState.

    Raises:
      ConfigError: a leaf is missing, extra, or has another shape or dtype: the checkpoint is of another network.
    """
    with _checkpointer() as checkpointer:
        stored = leaves_by_name(checkpointer.restore((path / 'arrays').absolute()))
    wanted = leaves_by_name(template)
    parts = {name.split('/')[0] for name in wanted}
    for name in sorted({*wanted, *(name for name in stored if name.split('/')[0] in parts)}):
        there, here = (
            f'{tree[name].dtype}{list(tree[name].shape)}' if name in tree else 'nothing' for tree in (stored, wanted)
        )
        if there != here:
            raise ConfigError(f'checkpoint {path} is of another network: {name} is {there} there, expected {here}')
    return jax.tree.unflatten(jax.tree.structure(template), [np.asarray(stored[name]) for name in wanted])


def steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first; other entries are ignored."""
    if not folder.is_dir():
        return []
    numbered = [p for p in folder.iterdir() if p.name.isdecimal() and p.name == str(int(p.name))]
    return sorted(int(p.name) for p in numbered if p.is_dir() and any(p.iterdir()))


def latest(folder: Path, *, set_aside: bool = True) -> Path | None:
    """Returns the newest whole checkpoint, or None if the folder has none.

    A damaged one is passed over with a warning, and the one before it is taken.

    Args:
      set_aside: rename a damaged one to `<step>.damaged`. For the run itself; who only reads leaves the folder as it is.

    Raises:
      InputFileError: there were checkpoints and all of them are damaged. Training does not start over by itself.
    """
    damaged = [p.name for p in folder.glob('*.damaged*')]
    for step in reversed(steps(folder)):
        path = folder / str(step)
        try:
            verify(path)
            return path
        except InputFileError as error:
            if not path.exists():  # the run that is in training has just deleted it
                continue
            damaged.append(_set_aside(path) if set_aside else path.name)
            logger.warning('%s. It was %s.', error, f'set aside as {damaged[-1]}' if set_aside else 'passed over')
    if damaged:
        raise InputFileError(
            f'all checkpoints in {folder} are damaged ({", ".join(sorted(damaged))}); to start over, choose another --workdir'
        )
    return None


def _set_aside(path: Path) -> str:
    name, number = f'{path.name}.damaged', 1
    while (path.parent / name).exists():
        number += 1
        name = f'{path.name}.damaged{number}'
    try:
        path.rename(path.parent / name)
    except OSError as error:
        raise ResourceError(f'{path} is damaged and cannot be renamed: {error.strerror}; check the permissions') from None
    return name


def keep_only(folder: Path, keep: Iterable[int]) -> None:
    """Deletes the checkpoints whose step is not in `keep`, and what an interrupted save left."""
    wanted = {str(step) for step in keep}
    for step in steps(folder):
        if str(step) not in wanted:
            # Renamed first: an interrupted deletion must not look like a damaged checkpoint.
            gone = folder / f'{_PARTIAL}{step}'
            shutil.rmtree(gone, ignore_errors=True)
            (folder / str(step)).rename(gone)
    for path in folder.glob(f'{_PARTIAL}*'):
        shutil.rmtree(path, ignore_errors=True)
