"""The run folder (`workdir`): what a run leaves on disk besides its checkpoints, and the lock that keeps it to one process."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from resnet_jax.errors import ConfigError, InputFileError, ResourceError, RunFolderInUseError
from resnet_jax.training.config import difference

logger = logging.getLogger(__name__)

_PACKAGES = ('resnet_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')


def environment() -> dict[str, Any]:
    """Returns the versions and the hardware that this process runs on."""
    device = jax.local_devices()[0]
    return {
        'python': platform.python_version(),
        'packages': {name: metadata.version(name) for name in _PACKAGES if _installed(name)},
        'platform': device.platform,
        'device': _cpu_name() if device.platform == 'cpu' else device.device_kind,
        'devices': jax.device_count(),
        'processes': jax.process_count(),
        'cpu_cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'system': f'{platform.system()} {platform.machine()}',
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or 'cpu'
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'cpu')


class RunFolder:
    """A run folder that this process holds; a context manager. Only the first process writes.

    Raises (on entry):
      ConfigError: the folder holds checkpoints of a different config; names the fields.
      ResourceError: it cannot be made or written.
      RunFolderInUseError: another process holds it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]):
        self.path = Path(path)
        self.checkpoints = self.path / 'checkpoints'
        self.primary = jax.process_index() == 0
        self._config = config
        self._lock: Any = None
        self._events: Any = None
        self._purge_step = 0  # the first step that is written now
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
            self._check_config()
            self._handler = logging.FileHandler(self.path / 'run.log')
        self._handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S'))
        logging.getLogger('resnet_jax').addHandler(self._handler)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f'run folder {self.path} cannot be written: {error.strerror or error}; free space or choose another --workdir'
            ) from None

    def __exit__(self, *_) -> None:
        if self._events:
            with contextlib.suppress(OSError):  # a full disk must not hide what ended the run
                self._events.close()
        if self._handler:
            logging.getLogger('resnet_jax').removeHandler(self._handler)
            self._handler.close()
        if self._lock:
            self._lock.close()  # and with it the lock, as also when the process is killed

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or 'unknown'
            raise RunFolderInUseError(
                f'run folder {self.path} is in use by process {holder}; wait for it or choose another --workdir'
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning('%s cannot be locked (%s): start only one process there', self.path, error.strerror)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _check_config(self) -> None:
        # A folder without a checkpoint has nothing to lose: a run that failed before its first one may start over, corrected.
        started = (self.path / 'result.json').exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        old = self.read_json('config.json')
        if started and old is not None and (changes := difference(old, self._config)):
            raise ConfigError(
                f'{self.path} holds a run of another config ({"; ".join(changes)}); choose another --workdir, or delete it'
            )

    def start(self, step: int, description: Mapping[str, Any], splits: Sequence[str]) -> None:
        """Writes config.json and environment.json and opens the metrics of a run that goes on after `step`.

        Of the rows that an interrupted run wrote, those up to `step` and of `splits`, which it writes as it trains, are kept.
        """

        def belongs(line: str) -> bool:
            try:
                row = json.loads(line)
                return line.endswith('\n') and row['step'] <= step and row['split'] in splits
            except (ValueError, KeyError, TypeError):  # half written, or what a power cut left
                return False

        self.write_json('config.json', self._config)
        self.write_json('environment.json', description)
        with self._writing():
            for name in ('metrics.jsonl', 'timing.jsonl'):
                path = self.path / name
                lines = path.read_text(errors='replace').splitlines(keepends=True) if path.exists() else []
                kept = [line for line in lines if belongs(line)] if step else []
                if kept != lines:
                    self._replace(name, ''.join(kept))
        self._purge_step = step + 1

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
        except ValueError as error:
            raise InputFileError(f'{path} is not valid JSON ({error}); restore it or choose another --workdir') from None

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file so that a reader sees the old content or the new, never a part."""
        with self._writing():
            self._replace(name, json.dumps(value, indent=1) + '\n')

    def _replace(self, name: str, text: str) -> None:
        partial = self.path / f'.{name}.partial'
        with partial.open('w') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / name)

    def write_metrics(self, rows: Sequence[Mapping[str, Any]], **timing: float) -> None:
        """Appends rows to metrics.jsonl, and to TensorBoard together with `timing`.

        metrics.jsonl holds no times, which go to timing.jsonl, so that a run that was interrupted ends with the same file as
        one that was not.
        """
        with self._writing():
            with (self.path / 'metrics.jsonl').open('a') as file:
                file.writelines(json.dumps(row) + '\n' for row in rows)
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that comes after must not outlive it
            with (self.path / 'timing.jsonl').open('a') as file:
                file.writelines(json.dumps({'step': row['step'], 'split': row['split'], **timing}) + '\n' for row in rows)
            if self._events is None:
                from tensorboardX import SummaryWriter  # imports torch if it is there: not before the first step

                self._events = SummaryWriter(str(self.path / 'tensorboard'), purge_step=self._purge_step)
            for row in rows:
                for name, value in {**row, **timing}.items():
                    if isinstance(value, float) and name != 'epoch':
                        self._events.add_scalar(f'{row["split"]}/{name}', value, row['step'], walltime=time.time())
            self._events.flush()
