"""A run's checkpoints: restores the latest, saves new ones, and keeps the best one intact."""

import contextlib
import logging

import jax

from resnet_jax import plugins
from resnet_jax.config_changes import changed_fields, check_continues
from resnet_jax.data import Dataset
from resnet_jax.errors import ConfigError, InputFileError, ResourceError
from resnet_jax.runs import checkpoint
from resnet_jax.runs.checksums import verify
from resnet_jax.runs.documents import check_config
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.metadata import Metadata, read_metadata
from resnet_jax.runs.progress import Best, ConfigChange, Progress
from resnet_jax.runtime import distributed, failpoints
from resnet_jax.runtime.devices import replicate
from resnet_jax.runtime.environment import environment
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.state import TrainState
from resnet_jax.typing import JsonDict, Variables

logger = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one run.

    Attributes:
      saved_step: step of the latest checkpoint; -1 before the first.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: RunFolder, *, extend: bool, allow_changes: bool):
        self._experiment, self._dataset, self._folder = experiment, dataset, folder
        self._extend, self._allow_changes = extend, allow_changes
        self.saved_step = -1
        self._saved_best: Best | None = None

    def restore(self) -> tuple[TrainState, Progress] | None:
        """Returns the replicated state and the progress of the latest intact checkpoint; None if there is none.

        Raises:
          ConfigError: the checkpoint has another config or other data.
          InputFileError: all checkpoints are damaged, or the run has logged rows but has no checkpoint.
        """
        folder, path = self._folder, None
        if folder.primary:
            checkpoint.clean(folder.checkpoints)
            path = checkpoint.latest(folder.checkpoints)
            if path is None:
                self._check_rows()
        step = distributed.broadcast(int(path.name) if path else -1)
        failpoints.reach('restore')
        if step < 0:
            self.saved_step, self._saved_best = -1, None
            return None
        path = folder.checkpoints / str(step)
        metadata = read_metadata(path)
        config, described = self._experiment.config, self._dataset.describe()
        check_continues(metadata.config, config, str(path), extend=self._extend, allow_changes=self._allow_changes)
        keys = [key for key in described if key != 'name' and metadata.dataset.get(key) != described[key]]
        if keys:  # the name is a field of the config, which is checked above
            raise ConfigError(
                f'{path} was trained on other data ({", ".join(keys)} differ); use the same data, or another run folder'
            )
        progress = metadata.progress
        if step == self._experiment.total_steps and not progress.evaluation:  # an edited file
            progress.evaluation_due = True
        if changed := changed_fields(metadata.config, config, 'on_request'):
            progress.changes.append(ConfigChange(step, {name: list(pair) for name, pair in changed.items()}))
        self.check_best(progress)
        self.saved_step, self._saved_best = step, progress.best
        logger.info('Continuing %s after iteration %d.', folder.path, step)
        of_then = self._experiment.in_phase(self._experiment.phase_of_state(step))
        return replicate(checkpoint.restore(path, jax.eval_shape(of_then.create_state))), progress

    def _check_rows(self) -> None:
        """Checks that a run without a checkpoint has logged no rows after the first checkpoint was due.

        Such rows would be lost silently.

        Raises:
          InputFileError: there are such rows, or config.json is not the config of a run.
        """
        every, config = self._experiment.config.checkpoint_every_epochs, self._folder.read_json('config.json')
        if config is not None:  # the config of the last start; the interval may have changed since
            every = check_config(config, self._folder.path / 'config.json').get('checkpoint_every_epochs', every)
        first = min(every * self._experiment.steps_per_epoch, self._experiment.total_steps)
        rows: list[int] = []
        with contextlib.suppress(OSError):  # reported when the run writes there
            rows = [row['step'] for row in self._folder.read_metrics()]
        if rows and max(rows) > first:
            raise InputFileError(
                f'{self._folder.path} has rows up to iteration {max(rows)} and no checkpoint to continue from; '
                'restore its checkpoints, choose another run folder, or delete metrics.jsonl to start over'
            )

    def check_best(self, progress: Progress) -> None:
        """Verifies every byte of the best checkpoint; if it is damaged, uses the next best one."""
        folder = self._folder
        while progress.best:
            path = folder.checkpoints / str(progress.best.step)
            try:
                return verify(path)
            except InputFileError as error:
                lost = progress.best
                if folder.primary and path.exists():
                    checkpoint.set_aside(path)
                distributed.barrier()  # the other processes must wait until the damaged checkpoint is set aside
                left = set(checkpoint.steps(folder.checkpoints))
                evaluated = [row for row in folder.read_metrics() if row['split'] == 'validation' and row['step'] in left]
                rows = [row for row in evaluated if row.get('accuracy') is not None]
                row = min(rows, key=lambda row: (-row['accuracy'], row['step']), default=None)
                progress.best = self._saved_best = Best(row['step'], row['accuracy']) if row else None
                logger.warning(
                    '%s. It was the best on validation, %.2f %% after iteration %d, and was set aside; now the best is %s.',
                    error,
                    100 * lost.accuracy,
                    lost.step,
                    f'that of iteration {row["step"]}, {100 * row["accuracy"]:.2f} %' if row else 'yet to come',
                )

    def restore_best(self, progress: Progress, state: TrainState) -> tuple[int, JsonDict, Variables] | None:
        """Returns the step, variables and moving averages of the best checkpoint; None if there is no best checkpoint."""
        self.check_best(progress)
        if progress.best is None:
            return None
        parts = {'params': state.params, 'batch_stats': state.batch_stats, 'ema': state.ema}
        path = self._folder.checkpoints / str(progress.best.step)
        variables = checkpoint.restore(path, jax.eval_shape(lambda: parts))
        return progress.best.step, variables, variables.pop('ema')

    def save(self, state: TrainState, progress: Progress, *, required: bool) -> bool:
        """Writes a checkpoint; returns in every process whether it was written.

        Args:
          required: if the checkpoint cannot be written, raise, because no later one will follow; otherwise log a warning.

        Raises:
          ResourceError: the checkpoint is required and cannot be written.
        """
        written = self._write(state, progress, required) if self._folder.primary else True
        failpoints.reach('broadcast')
        written = bool(distributed.broadcast(int(written)))  # no process continues before the checkpoint is written
        if written:
            self.saved_step, self._saved_best = progress.step, progress.best
        else:
            progress.best = self._saved_best  # an epoch without a checkpoint cannot be the result
        return written

    def _write(self, state: TrainState, progress: Progress, required: bool) -> bool:
        folder = self._folder
        try:
            folder.flush()  # rows first: the checkpoint relies on them
            metadata = Metadata(self._experiment.config, self._dataset.describe(), progress, environment(plugins.imported))
            checkpoint.save(folder.checkpoints, state, metadata)
            failpoints.reach('saved')
            # Also keep the previous checkpoint, and the checkpoint that was the best then, in case the latest is damaged.
            kept = checkpoint.steps(folder.checkpoints)[-2:]
            best = [best.step for best in (progress.best, self._saved_best) if best]
            checkpoint.keep_only(folder.checkpoints, [*kept, *best])
        except ResourceError as error:
            if required:
                raise
            logger.warning('%s. The run goes on and tries again at the end of an epoch', error)
            return False
        return True
