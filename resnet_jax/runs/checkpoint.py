"""Checkpoints: Orbax writes the arrays; this module writes them atomically, verifies every byte and limits their number.

A checkpoint is a folder named by its step:

    checkpoints/391/arrays/...      Orbax's files: every leaf of the TrainState, by name
    checkpoints/391/metadata.json   format, config, data set, progress, versions
    checkpoints/391/SHA256SUMS      checksums of all files above, in the format of `sha256sum -c`

A checkpoint does not depend on the number of devices. It is written under a temporary name and renamed when it is complete.
"""

import contextlib
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from resnet_jax.errors import ConfigError, InputFileError, ResourceError, UserError, one_line
from resnet_jax.runs.checksums import CHECKSUMS, checksums_text, verify
from resnet_jax.runs.metadata import FORMAT, Metadata
from resnet_jax.runtime import failpoints
from resnet_jax.typing import PyTree

if TYPE_CHECKING:
    from types import TracebackType

    import orbax.checkpoint as ocp

logger = logging.getLogger(__name__)

_PARTIAL = '.partial-'
_LARGEST_ARRAYS = 64 * 2**30  # bytes that the arrays may claim; even small files can claim any size
_PLAIN_PATH = re.compile(r'[\w /.,;=+@#%&()-]*')


def _checkpointer() -> 'ocp.Checkpointer':
    import orbax.checkpoint as ocp  # imported here because it takes a second

    # Only one process writes, and every process reads independently, so Orbax must not wait for the other processes.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f'process{process}'
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _path_for_orbax(path: Path) -> Iterator[Path]:
    """Yields a path of `path / 'arrays'` that Orbax and TensorStore can use.

    They treat the path as a glob pattern and 'gs:' as a bucket, and require UTF-8. Paths with special characters are accessed
    through a link with a plain name.

    Raises:
      ResourceError: the link cannot be created.
    """
    path = path.absolute()
    if _PLAIN_PATH.fullmatch(str(path)):
        yield path / 'arrays'
        return
    with contextlib.ExitStack() as stack:
        try:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))) / 'link'
            link.symlink_to(path)
        except OSError as error:
            raise ResourceError(
                f'{path} needs a link in the temporary folder, for its name: {error.strerror}; '
                'set TMPDIR to a folder with free space, or choose a run folder with a plain name'
            ) from None
        yield link / 'arrays'


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree by path, e.g. 'params/conv1/kernel'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's threads from printing tracebacks in addition to the error that it raises."""
    absl = logging.getLogger('absl')
    level, hooks = absl.level, (sys.excepthook, sys.unraisablehook)
    absl.setLevel(logging.CRITICAL)
    if hooks[0] is not _report_exception:
        _hooks[:] = hooks
        sys.excepthook, sys.unraisablehook = _report_exception, _report_unraisable
    try:
        yield
        sys.excepthook, sys.unraisablehook = hooks
    finally:  # after an error the hooks stay, because TensorStore's threads continue for a while
        absl.setLevel(level)


_hooks: list[Callable[..., object]] = []  # the hooks that were set before


def _report_exception(kind: type[BaseException], error: BaseException, trace: 'TracebackType | None') -> None:
    if not _of_a_closed_loop(error):
        _hooks[0](kind, error, trace)


def _report_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
    if not _of_a_closed_loop(unraisable.exc_value):
        _hooks[1](unraisable)


def _of_a_closed_loop(error: BaseException | None) -> bool:
    """Returns whether the error is from a callback of TensorStore into an event loop that Orbax has closed."""
    if not isinstance(error, RuntimeError) or str(error) != 'Event loop is closed' or not error.__traceback__:
        return False
    return error.__traceback__.tb_frame.f_code.co_name == 'call_soon_threadsafe'


@_quiet()
def save(folder: Path, state: PyTree, metadata: Metadata) -> Path:
    """Writes a TrainState to `folder/<step>` and returns the path. Call it in only one process.

    Raises:
      ResourceError: there is no space or no permission; no partial files remain.
    """
    step = metadata.progress.step
    final, partial, old = folder / str(step), folder / f'{_PARTIAL}{step}', folder / f'{_PARTIAL}{step}-old'
    nested = unflatten_dict({name: np.asarray(leaf) for name, leaf in leaves_by_name(state).items()}, sep='/')
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        failpoints.reach('save')
        with _path_for_orbax(partial) as arrays, _checkpointer() as checkpointer:
            checkpointer.save(arrays, nested)
        failpoints.reach('arrays')
        described = {'config': metadata.config.to_dict(), 'progress': metadata.progress.to_json()}
        described |= {'dataset': metadata.dataset, 'environment': metadata.environment}
        text = json.dumps({'format': FORMAT, **described}, indent=1)
        (partial / 'metadata.json').write_text(text)
        (partial / CHECKSUMS).write_text(checksums_text(partial))
        for path in sorted(partial.rglob('*')):
            _sync(path)
        _sync(partial)
        failpoints.reach('written')
        if final.exists():  # same step: the run was interrupted at the end of an epoch
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            failpoints.reach('swap')
        partial.rename(final)
        failpoints.reach('renamed')
        _sync(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        _remove(partial)
        if old.exists() and not final.exists():
            old.rename(final)
        # TensorStore reports a system error as a ValueError with the errno in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if not number and not isinstance(error, OSError):
            raise
        reason = os.strerror(int(number[1])) if number else str(error)
        raise ResourceError(
            f'checkpoint {final} could not be written: {reason}; free space or choose another run folder'
        ) from None
    return final


def _remove(partial: Path) -> None:
    """Removes the files of a failed save.

    TensorStore's threads continue for a while after Orbax has raised (measured: 20 ms on a busy machine) and recreate the
    folder, so this function returns only when the folder has been gone for 0.2 s. The next save or start removes any remaining
    files.
    """
    quiet, end = 0, time.monotonic() + 2
    while quiet < 10 and time.monotonic() < end:
        quiet = 0 if partial.exists() else quiet + 1
        shutil.rmtree(partial, ignore_errors=True)
        time.sleep(0.02)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(path: Path, template: PyTree) -> PyTree:
    """Reads arrays into the structure of `template`: a TrainState or a part of it, with arrays or ShapeDtypeStructs.

    Compares shapes and dtypes with the template before allocating memory.

    Raises:
      ConfigError: a leaf is missing, extra, or has another shape or dtype: the checkpoint belongs to another network.
      InputFileError: the arrays are damaged or not finite, or claim more bytes than any network has.
    """
    import orbax.checkpoint as ocp

    wanted = leaves_by_name(template)
    parts = {name.split('/')[0] for name in wanted}
    with _quiet(), _path_for_orbax(path) as arrays, _checkpointer() as checkpointer, _damage(path):
        stored = leaves_by_name(checkpointer.metadata(arrays).item_metadata.tree)
        for name in sorted({*wanted, *(name for name in stored if name.split('/')[0] in parts)}):
            theirs, ours = (
                f'{np.dtype(tree[name].dtype)}{list(tree[name].shape)}' if name in tree else 'nothing'
                for tree in (stored, wanted)
            )
            if theirs != ours:
                raise ConfigError(f'checkpoint {path} is of another network: {name} is {theirs} there, expected {ours}')
        claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in wanted.values())
        if claimed > _LARGEST_ARRAYS:
            raise InputFileError(f'checkpoint {path} claims {claimed:,} bytes; expected at most {_LARGEST_ARRAYS:,}')
        shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
        item = unflatten_dict(shapes, sep='/')
        as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        restored = checkpointer.restore(arrays, args=ocp.args.PyTreeRestore(item, restore_args=as_arrays, partial_restore=True))
    read = leaves_by_name(restored)
    for name, leaf in read.items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            raise InputFileError(
                f'checkpoint {path} has numbers in {name} that are not finite; no run writes such: use another'
            )
    return jax.tree.unflatten(jax.tree.structure(template), [np.asarray(read[name]) for name in wanted])


def count_leaves(path: Path) -> int:
    """Returns the number of stored arrays, without reading them.

    Raises:
      InputFileError: Orbax's files are damaged.
    """
    with _quiet(), _path_for_orbax(path) as arrays, _checkpointer() as checkpointer, _damage(path):
        return len(leaves_by_name(checkpointer.metadata(arrays).item_metadata.tree))


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns errors that Orbax and TensorStore raise for changed files into an InputFileError: the checkpoint is damaged."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:  # Orbax writes other files
        raise _unreadable(path, error) from None
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputFileError:
    # Orbax raises other errors only as a consequence of data that it could not read.
    reason = f': {one_line(error)[:200]}' if isinstance(error, OSError | ValueError) else ''
    return InputFileError(f'checkpoint {path} is damaged: its arrays cannot be read{reason}; use another checkpoint')


def steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first; ignores other entries."""
    if not folder.is_dir():
        return []
    numbered = [p for p in folder.iterdir() if p.name.isdecimal() and p.name == str(int(p.name))]
    ours = ('arrays', 'metadata.json', CHECKSUMS)  # a folder without any of them is not a checkpoint
    return sorted(int(p.name) for p in numbered if p.is_dir() and any(os.path.lexists(p / name) for name in ours))


def latest(folder: Path, *, rename: bool = True) -> Path | None:
    """Returns the newest intact checkpoint, or None if the folder has none.

    Skips a damaged checkpoint with a warning and uses the one before it.

    Args:
      rename: rename damaged checkpoints to `<step>.damaged`. Only for the run itself; readers must not change the folder.

    Raises:
      InputFileError: there are checkpoints, and all are damaged: training must not silently start over.
      ResourceError: a checkpoint cannot be read; it may be undamaged.
    """
    damaged = [p.name for p in folder.glob('*.damaged*')]
    if folder.is_dir():  # `rm -r checkpoints/*/*` leaves empty folders
        damaged += [p.name for p in folder.iterdir() if p.name.isdecimal() and p.is_dir() and not any(p.iterdir())]
    for step in reversed(steps(folder)):
        path = folder / str(step)
        try:
            verify(path)
            return path
        except InputFileError as error:
            if not path.exists():  # a training run has just deleted the checkpoint
                continue
            damaged.append(set_aside(path) if rename else path.name)
            logger.warning('%s. It was %s.', error, f'set aside as {damaged[-1]}' if rename else 'passed over')
    if damaged:
        raise InputFileError(
            f'all checkpoints in {folder} are damaged ({", ".join(sorted(damaged))}); to start over, choose another run folder'
        )
    return None


def set_aside(path: Path) -> str:
    """Renames a damaged checkpoint to `<step>.damaged` and returns its new name.

    Raises:
      ResourceError: the folder cannot be renamed.
    """
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
    """Deletes the checkpoints whose step is not in `keep`, and the partial files of interrupted saves."""
    wanted = {str(step) for step in keep}
    for step in steps(folder):
        if str(step) not in wanted:
            # Rename first: an interrupted deletion must not look like a damaged checkpoint.
            gone = folder / f'{_PARTIAL}{step}'
            shutil.rmtree(gone, ignore_errors=True)
            with contextlib.suppress(OSError):  # not writable: tried again after the next save
                (folder / str(step)).rename(gone)
            failpoints.reach('delete')
    for path in folder.glob(f'{_PARTIAL}*'):
        shutil.rmtree(path, ignore_errors=True)


def clean(folder: Path) -> None:
    """Deletes the partial files of interrupted saves and deletions, after restoring a checkpoint that was being replaced.

    Call it only in the process that has locked the run folder.
    """
    for path in folder.glob(f'{_PARTIAL}*-old'):
        final = folder / path.name.removeprefix(_PARTIAL).removesuffix('-old')
        if not final.exists():
            path.rename(final)
    for path in folder.glob(f'{_PARTIAL}*'):
        shutil.rmtree(path, ignore_errors=True)
