"""The run folder (`workdir`): what a run leaves on disk besides its checkpoints, and the lock that keeps it to one process."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import logging.handlers
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from resnet_jax.config import TrainConfig, changed_fields, check_continues, describe_changes
from resnet_jax.errors import ConfigError, InputFileError, ResourceError, RunFolderInUseError
from resnet_jax.runs import checkpoint
from resnet_jax.runs.progress import Progress
from resnet_jax.runs.tensorboard import EventFile
from resnet_jax.runtime.files import delete_unfinished, write_atomically
from resnet_jax.typing import Json, JsonDict

logger = logging.getLogger(__name__)

_RESULT = {'split', 'selected', 'accuracy', 'loss', 'count', 'step', 'epoch'}


class _LogFile(logging.handlers.WatchedFileHandler):
    """run.log; opened again where the folder has been made again, and silent where it cannot be written."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class RunFolder:
    """A run folder that this process holds; a context manager. Only the first process writes.

    A disk that is full or gone for a while does not end the run: rows that cannot be written are kept and tried again.

    Args:
      extend: let a run go on to more epochs than it was started for.
      allow_changes: let it go on with other values of fields that change on request, such as the learning rate.

    Raises (on entry):
      ConfigError: the folder holds checkpoints of a different config; names the fields.
      ResourceError: it cannot be made or written.
      RunFolderInUseError: another process holds it.
    """

    def __init__(self, path: str | Path, config: TrainConfig, *, extend: bool = False, allow_changes: bool = False):
        self.path = Path(path)
        self.checkpoints = self.path / 'checkpoints'
        self.primary = jax.process_index() == 0
        self._config = config
        self._extend, self._allow_changes = extend, allow_changes
        self._description: Json = {}
        self._backlog = {'metrics.jsonl': '', 'timing.jsonl': ''}
        self._failing = False
        self._lock: Any = None
        self._events: Any = None
        self._handler: logging.Handler | None = None

    def __enter__(self) -> 'RunFolder':
        try:
            self._open()
        except BaseException:
            self.__exit__()  # or the folder would stay locked for as long as somebody keeps the exception
            raise
        return self

    def _open(self) -> None:
        if not self.primary:
            self._check_config()
            return
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / '.lock').open('a+')
            self._take_lock()
            changes = self._check_config()
            delete_unfinished(self.path)
            (self.path / 'failed.json').unlink(missing_ok=True)
            self._handler = _LogFile(self.path / 'run.log')
        self._handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S'))
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
        for file in (self._handler, self._lock):  # and with its file the lock, as also when the process is killed
            if file:
                with contextlib.suppress(OSError):  # a full disk must not hide what ended the run
                    file.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            raise _in_use(self.path, self._lock.read()) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning('%s cannot be locked (%s): start only one process there', self.path, error.strerror)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _check_config(self) -> str:
        """Checks that a run in this folder may go on with the config; returns the changes, in words."""
        # A folder without a checkpoint has nothing to lose: a run that failed before its first one may start over, corrected.
        started = (self.path / 'result.json').exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        old = self.read_json('config.json')
        if not started or not isinstance(old, dict):
            return ''
        try:
            before = TrainConfig.from_mapping(old)
        except ConfigError as error:
            raise InputFileError(f'{self.path / "config.json"} cannot be used by this version: {error}') from None
        check_continues(before, self._config, str(self.path), extend=self._extend, allow_changes=self._allow_changes)
        if self._extend and self.primary and before.num_epochs < self._config.num_epochs:
            with contextlib.suppress(FileNotFoundError):  # no longer the result of this run, but still that of a part of it
                (self.path / 'result.json').rename(self.path / f'result-{before.num_epochs}-epochs.json')
        return describe_changes(changed_fields(before, self._config, 'freely', 'on_request'))

    def start(self, progress: Progress, description: Json, splits: Sequence[str], again: str | None = None) -> None:
        """Writes config.json and environment.json and opens the metrics of a run that goes on from here.

        Of the rows that an interrupted run wrote, those up to `progress.step` and of `splits`, which it writes as it trains,
        are kept; of the split `again` those before that step.
        """
        step = progress.step

        def belongs(line: str) -> bool:
            try:
                row = json.loads(line)
                last = step - 1 if row['split'] == again else step
                return line.endswith('\n') and row['step'] <= last and row['split'] in splits
            except (ValueError, KeyError, TypeError):  # half written, or what a power cut left
                return False

        self._description = description
        self._backlog = dict.fromkeys(self._backlog, '')
        self._describe()
        if progress.changes:
            self.write_json('changes.json', [dataclasses.asdict(change) for change in progress.changes])
        with self._writing():
            for name in self._backlog:
                path = self.path / name
                lines = path.read_text(errors='replace').splitlines(keepends=True) if path.exists() else []
                kept = [line for line in lines if belongs(line)] if step else []
                if kept != lines:
                    self._replace(name, ''.join(kept))
        if self._events:
            self._events.close()
        self._events = EventFile(self.path / 'tensorboard', step)

    def _describe(self) -> None:
        self.write_json('config.json', self._config.to_dict())
        self.write_json('environment.json', self._description)

    def newest_checkpoint(self) -> Path | None:
        """Returns the checkpoint with the highest step, checked or not; None without one."""
        steps = checkpoint.steps(self.checkpoints)
        return self.checkpoints / str(steps[-1]) if steps else None

    def read_metrics(self) -> list[JsonDict]:
        """Returns the rows of metrics.jsonl, without what is damaged."""
        rows, path = [], self.path / 'metrics.jsonl'
        for line in path.read_text(errors='replace').splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict) and {'step', 'split'} <= row.keys()]

    def read_result(self) -> JsonDict | None:
        """Returns the result of a finished run; None of one that is not finished.

        Raises:
          InputFileError: result.json is not what a run ends with.
        """
        result = self.read_json('result.json')
        if result is None or (isinstance(result, dict) and result.keys() >= _RESULT):
            return result
        raise InputFileError(f'{self.path / "result.json"} is not what a run ends with; delete it to evaluate the run again')

    def read_json(self, name: str) -> Any:
        """Returns a JSON file's content, or None if it is not there.

        Raises:
          InputFileError: it is not JSON.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise InputFileError(f'{path} is not valid JSON ({error}); restore it or choose another run folder') from None

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file so that a reader sees the old content or the new, never a part."""
        with self._writing():
            self._replace(name, json.dumps(value, indent=1) + '\n')

    def _replace(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text, durable=True)

    def write_metrics(self, rows: Sequence[Json], **timing: float) -> None:
        """Appends rows to metrics.jsonl, and to TensorBoard together with `timing`; or keeps them for `flush`, with a warning.

        metrics.jsonl holds no times, which go to timing.jsonl, so that a run that was interrupted ends with the same file as
        one that was not.
        """
        self._backlog['metrics.jsonl'] += ''.join(json.dumps(row) + '\n' for row in rows)
        times = [{'step': row['step'], 'split': row['split'], **timing} for row in rows]
        self._backlog['timing.jsonl'] += ''.join(json.dumps(row) + '\n' for row in times)
        try:
            self.flush()
        except ResourceError as error:
            if not self._failing:
                logger.warning('%s. The run goes on; its rows are kept and tried again', error)
            self._failing = True
        for row in rows:
            scalars = {name: v for name, v in {**row, **timing}.items() if isinstance(v, float) and name != 'epoch'}
            self._events.write(row['step'], {f'{row["split"]}/{name}': value for name, value in scalars.items()})

    def flush(self) -> None:
        """Writes the rows that are not written yet.

        Raises:
          ResourceError: they cannot be; they are kept.
        """
        with self._writing():
            if not self._is_ours():
                self._make_again()
            for name, text in self._backlog.items():
                if text:
                    _append(self.path / name, text)
                    self._backlog[name] = ''
        if self._failing:
            self._failing = False
            logger.warning('%s can be written again.', self.path)

    def _is_ours(self) -> bool:
        """Whether the folder is the one that this process has locked, and not one that another has put in its place."""
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), (self.path / '.lock').stat())
        except FileNotFoundError:
            return False

    def _make_again(self) -> None:
        """The end of a long run is worth having, even where somebody has deleted its folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.close()
        self._lock = (self.path / '.lock').open('a+')
        self._take_lock()
        self._describe()
        logger.warning('%s was removed while the run goes on, and has been made again; what it held is lost', self.path)


def check_not_in_use(path: Path) -> None:
    """Checks, without making or changing anything, that no process holds a run folder.

    Several processes do so before they join: with an id that is taken, JAX would abort those that run.

    Raises:
      RunFolderInUseError: one does.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), (path / '.lock').open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path, lock.read()) from None
        except OSError:  # some network file systems have no locks
            return


def _in_use(path: Path, holder: str) -> RunFolderInUseError:
    text = f'run folder {path} is in use by process {holder.strip() or "unknown"}; wait for it or choose another run folder'
    return RunFolderInUseError(text)


def _append(path: Path, text: str) -> None:
    """Appends all of the text or nothing."""
    with path.open('ab') as file:
        size = file.seek(0, os.SEEK_END)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # a checkpoint that comes after must not outlive it
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise
