"""The run folder (`workdir`): a run's files other than checkpoints, and the lock that keeps other processes out."""

import contextlib
import dataclasses
import fcntl
import logging
import logging.handlers
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from resnet_jax.config import TrainConfig
from resnet_jax.config_changes import changed_fields, check_continues, describe_changes
from resnet_jax.errors import InputFileError, ResourceError, RunFolderInUseError
from resnet_jax.runs import checkpoint, documents
from resnet_jax.runs.progress import Progress
from resnet_jax.runs.rows import METRICS, RowFiles, read_rows
from resnet_jax.runs.tensorboard import EventFiles
from resnet_jax.runtime.files import delete_unfinished, write_json
from resnet_jax.runtime.untrusted import check_owned_files, parse_json, printable, read_text
from resnet_jax.typing import Json, JsonDict, Row

logger = logging.getLogger(__name__)


class _LogFile(logging.handlers.WatchedFileHandler):
    """Writes run.log; reopens the file if the folder was recreated, and ignores write errors."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class RunFolder:
    """A context manager that locks a run folder for this process. Only process 0 writes to it.

    A disk that is full or missing for a while does not end the run: unwritten rows are kept and retried.

    Args:
      extend: let the run continue with more epochs than it was started with.
      allow_changes: let the run continue with changed values of fields that may change on request, such as the learning rate.

    Raises:
      ConfigError: on entry: the folder has checkpoints of a different config; names the fields.
      ResourceError: on entry: the folder cannot be created or written.
      RunFolderInUseError: on entry: another process holds the lock.
    """

    def __init__(self, path: str | Path, config: TrainConfig, *, extend: bool = False, allow_changes: bool = False):
        self.path = Path(path)
        self.checkpoints = self.path / 'checkpoints'
        self.primary = jax.process_index() == 0
        self._config = config
        self._extend, self._allow_changes = extend, allow_changes
        self._description: Json = {}
        self._shorter: int | None = None  # number of epochs of the shorter run that this run extends
        self._rows = RowFiles(self.path)
        self._failing = False
        self._lock: IO[str] | None = None
        self._events: EventFiles | None = None
        self._handler: logging.Handler | None = None

    def __enter__(self) -> 'RunFolder':
        try:
            self._open()
        except BaseException:
            self.__exit__()  # otherwise the folder stays locked while the exception is referenced
            raise
        return self

    def _open(self) -> None:
        if not self.primary:
            self._check_config()
            return
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            check_owned_files(self.path)
            self._take_lock()
            changes = self._check_config()
            delete_unfinished(self.path)
            (self.path / 'failed.json').unlink(missing_ok=True)
            self._handler = _LogFile(self.path / 'run.log')
        self._handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S'))
        if threading.current_thread() is not threading.main_thread():  # other threads have other runs
            thread = threading.get_ident()
            self._handler.addFilter(lambda record: record.thread == thread)
        logging.getLogger('resnet_jax').addHandler(self._handler)
        if changes:
            logger.info('Changed in the config since the last start: %s.', changes)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f'run folder {self.path} cannot be written: {error.strerror or error}; free space or choose another run folder'
            ) from None

    def __exit__(self, *_: object) -> None:
        if self._events:
            self._events.close()
        if self._handler:
            logging.getLogger('resnet_jax').removeHandler(self._handler)
        for file in (self._handler, self._lock):  # closing the file or killing the process releases the lock
            if file:
                with contextlib.suppress(OSError):  # a full disk must not hide the error that ended the run
                    file.close()

    def _take_lock(self) -> None:
        self._lock = lock = (self.path / '.lock').open('a+')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise _in_use(self.path, lock.read()) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning('%s cannot be locked (%s): start only one process there', self.path, error.strerror)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    def _check_config(self) -> str:
        """Checks that a run in this folder may continue with the config; returns a description of the changes."""
        # Without a checkpoint there is nothing to lose: a run that failed earlier may start over with any config.
        started = (self.path / 'result.json').exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        old = self.read_json('config.json')
        if not started or not isinstance(old, dict):
            return ''
        before = documents.config_of(old, self.path / 'config.json')
        check_continues(before, self._config, str(self.path), extend=self._extend, allow_changes=self._allow_changes)
        if before.num_epochs < self._config.num_epochs:
            self._shorter = before.num_epochs
        return describe_changes(changed_fields(before, self._config, 'freely', 'on_request'))

    def start(self, progress: Progress, description: Json, splits: Sequence[str], again: str | None = None) -> None:
        """Writes config.json and environment.json, and opens the metrics files of a run that continues from `progress`.

        Keeps an interrupted run's rows up to `progress.step`, and drops later rows, because the run writes them again. If this
        run extends a shorter one, the shorter run's result stays available as result-<its epochs>-epochs.json.

        Args:
          splits: splits that the run logs during training, with the evaluated split last; rows of other splits are dropped.
          again: split whose row at `progress.step` is dropped too.
        """
        if self._shorter:  # only now, when all checks have passed
            with self._writing(), contextlib.suppress(FileNotFoundError):
                (self.path / 'result.json').rename(self.path / f'result-{self._shorter}-epochs.json')
            self._shorter = None
        self._description = description
        self._describe()
        if progress.changes:
            self.write_json('changes.json', [dataclasses.asdict(change) for change in progress.changes])
        with self._writing():
            self._rows.start(progress.step, splits, again)
        if self._events:
            self._events.close()
        self._events = EventFiles(self.path / 'tensorboard', progress.step, self._config.to_dict(), splits[-1])

    def _describe(self) -> None:
        self.write_json('config.json', self._config.to_dict())
        self.write_json('environment.json', self._description)

    def newest_checkpoint(self) -> Path | None:
        """Returns the checkpoint with the highest step, without verifying it; None if there is none."""
        steps = checkpoint.steps(self.checkpoints)
        return self.checkpoints / str(steps[-1]) if steps else None

    def read_metrics(self) -> list[Row]:
        """Returns the undamaged rows of metrics.jsonl."""
        return read_rows(self.path / METRICS)

    def read_result(self) -> JsonDict | None:
        """Returns the result of a finished run; None if the run is not finished, or if this run extends it.

        Raises:
          InputFileError: result.json is not a run's result.
        """
        return None if self._shorter else documents.read_result(self.path)

    def read_json(self, name: str) -> Any:
        """Returns a JSON file's content, or None if there is no such file.

        Raises:
          InputFileError: the file is not JSON.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            return parse_json(read_text(path))
        except ValueError as error:
            raise InputFileError(f'{path} is not valid JSON ({error}); restore it or choose another run folder') from None

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file atomically."""
        with self._writing():
            write_json(self.path / name, value, durable=True)

    def write_metrics(self, rows: Sequence[Json], **timing: float) -> None:
        """Appends rows to metrics.jsonl, and with `timing` to TensorBoard; on failure, warns and keeps the rows for `flush`.

        Times go to timing.jsonl, so that metrics.jsonl is equal for interrupted and uninterrupted runs.
        """
        self._rows.add(rows, timing)
        try:
            self.flush()
        except ResourceError as error:
            if not self._failing:
                logger.warning('%s. The run goes on; its rows are kept and tried again', error)
            self._failing = True
        assert self._events is not None
        for row in rows:
            scalars = {name: v for name, v in {**row, **timing}.items() if isinstance(v, float) and name != 'epoch'}
            self._events.write(row['step'], row['split'], scalars)

    def write_images(self, step: int, split: str, images: Mapping[str, np.ndarray]) -> None:
        """Shows uint8 images `[height, width, 1 or 3]` by name in TensorBoard."""
        assert self._events is not None
        self._events.write_images(step, split, images)

    def flush(self) -> None:
        """Writes the rows that are not written yet.

        Raises:
          ResourceError: the rows cannot be written; they are kept.
        """
        with self._writing():
            if not self._is_ours():
                self._make_again()
            self._rows.write()
        if self._failing:
            self._failing = False
            logger.warning('%s can be written again.', self.path)

    def _is_ours(self) -> bool:
        """Returns whether the folder is still the folder that this process has locked."""
        assert self._lock is not None
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), (self.path / '.lock').stat())
        except FileNotFoundError:
            return False

    def _make_again(self) -> None:
        """Recreates a deleted folder, so that the rest of a long run is not lost."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._lock:
            self._lock.close()
        self._take_lock()
        self._describe()
        logger.warning('%s was removed while the run goes on, and has been made again; what it held is lost', self.path)


def check_not_in_use(path: Path) -> None:
    """Checks that no process has locked a run folder; creates and changes nothing.

    Several processes check this before they join: a second process with the same id would make JAX abort the running processes.

    Raises:
      RunFolderInUseError: a process has locked it.
      InputFileError: it contains something other than files and folders: opening a pipe would wait without end.
    """
    check_owned_files(path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), (path / '.lock').open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path, lock.read()) from None
        except OSError:  # some network file systems have no locks
            return


def _in_use(path: Path, holder: str) -> RunFolderInUseError:
    process = printable(holder.strip()[:20]) or 'unknown'
    return RunFolderInUseError(f'run folder {path} is in use by process {process}; wait for it or choose another run folder')
