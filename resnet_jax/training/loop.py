"""A run, from the first step to the last: train, evaluate, checkpoint, continue where it stopped."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.config import check_continues, validate
from resnet_jax.data import Split
from resnet_jax.errors import ConfigError, DivergedError, InputFileError, Interrupted, OutOfMemoryError, ResourceError
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.report.page import write_run_report
from resnet_jax.runs import checkpoint
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runtime import console, distributed, failpoints
from resnet_jax.runtime.devices import compile_parallel, device_positions, replicate
from resnet_jax.runtime.environment import environment
from resnet_jax.runtime.memory import check_fits, check_state_fits, out_of_memory
from resnet_jax.runtime.signals import StopSignal
from resnet_jax.training.experiment import Experiment, check_names, create_experiment, parallel_train_steps
from resnet_jax.training.log import RunLog, report_result
from resnet_jax.training.program import epoch_order, seed_key
from resnet_jax.training.run_files import leave_failed, plot, record
from resnet_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_RESULT = {'split', 'selected', 'accuracy', 'loss', 'count', 'step', 'epoch'}


def train_and_evaluate(config: ConfigDict, workdir: str | Path, *, extend: bool = False) -> dict[str, Any]:
    """Trains a config in a run folder, or continues it there, and returns its result.

    The result is of the last epoch or, if `validation_size` is set, of the epoch with the best validation accuracy; never of
    the epoch that is best on the test set. A run that is finished is not repeated.

    Args:
      extend: go on with a run of the same config but fewer epochs; from there on it follows the longer schedule.

    Returns:
      What result.json holds: 'split', 'tta' (what the logits were averaged over), 'accuracy', 'loss', 'count', 'step',
      'epoch', and 'ema_accuracy' and 'ema_loss' if the config has an `ema_decay`.

    Raises:
      ConfigError, InputFileError, DivergedError, ResourceError, RunFolderInUseError, LostPeerError: see `resnet_jax.errors`.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    console.log_to_console()
    values = validate(config)
    check_names(values)  # before there is a folder
    folder = RunFolder(workdir, values, extend=extend)
    with StopSignal() as stop, distributed.process_group(values, folder.path, folder.newest_checkpoint), folder:
        distributed.assert_shared(folder.path / '.lock')
        failpoints.reach('start')
        result = folder.read_json('result.json')
        if result is not None and not (isinstance(result, dict) and result.keys() >= _RESULT):
            raise InputFileError(
                f'{folder.path / "result.json"} is not what a run ends with; delete it to evaluate the run again'
            )
        if result is None:
            run = _Run(create_experiment(values), folder, stop, extend)
            try:
                result = run.train()
            except (DivergedError, OutOfMemoryError) as error:
                leave_failed(folder, error)
                raise
        else:
            logger.info('%s is finished; nothing to do.', folder.path)
            if folder.primary and not (folder.path / 'report.html').exists():  # a run that was killed in between
                write_run_report(folder.path)
        report_result(folder.path, result)
        return result


class _Run:
    """The state of a run: what is on the devices, what is to be logged, and what a checkpoint must add to the TrainState."""

    def __init__(self, experiment: Experiment, folder: RunFolder, stop: StopSignal, extend: bool = False):
        self.experiment, self.folder, self.config = experiment, folder, experiment.config
        self.stop, self.extend = stop, extend
        self.log = RunLog(experiment, folder)
        self.best: dict[str, Any] | None = None  # {'step', 'accuracy'} on the validation split
        self.best_saved: dict[str, Any] | None = None  # the same, as the latest checkpoint has it
        self.evaluation: dict[str, Any] = {}  # the latest row of the split evaluated during training
        self.evaluation_due = False  # the evaluation after this step was interrupted
        self.saved_step = -1
        self.rollbacks = 0  # times that the run has diverged and gone on at half the rate
        self.grad_norm: float | None = None  # of the latest step

    def train(self) -> dict[str, Any]:
        """Trains from the latest checkpoint, or from the start, to the last step; returns the result."""
        experiment, folder = self.experiment, self.folder
        distributed.assert_equal('data set', experiment.describe_dataset())
        self.split = 'validation' if experiment.validation else 'test'
        self._begin()
        self.log.describe(self.state)
        self.evaluator = self._create_evaluator(experiment.validation or experiment.dataset.test)
        try:
            while not self._run_epochs():
                self._begin()
        except RuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            raise out_of_memory(self.config['batch_size'], 0) from None
        finally:
            plot(folder)
        result = self._result()
        if folder.primary:
            record(experiment, folder, self.result_variables)
            folder.flush()
            failpoints.reach('result')
            folder.write_json('result.json', result)
            failpoints.reach('report')
            write_run_report(folder.path)
        return result

    def _begin(self) -> None:
        """Takes up the run at its latest checkpoint, or at the start."""
        self.state = self._restore()
        self.step = self.saved_step = int(self.state.step)
        if self.rollbacks:
            config = {**self.config, 'learning_rate': self.config['learning_rate'] * 0.5**self.rollbacks}
            self.experiment = create_experiment(config)
        if self.folder.primary:
            again = self.split if self.evaluation_due else None
            self.folder.start(self.step, environment(), ('train', 'gradients', self.split), again)

    def _restore(self) -> TrainState:
        template = jax.eval_shape(self.experiment.create_state)
        self.memory = check_state_fits(template, self.config['model'])
        path = None
        if self.folder.primary:
            checkpoint.clean(self.folder.checkpoints)
            path = checkpoint.latest(self.folder.checkpoints)
        step = distributed.broadcast(int(path.name) if path else -1)
        failpoints.reach('restore')
        if step < 0:
            self.best, self.best_saved, self.evaluation, self.evaluation_due = None, None, {}, False
            self.log.pending = []
            return replicate(self.experiment.create_state())
        path = self.folder.checkpoints / str(step)
        metadata = checkpoint.read_metadata(path)
        check_continues(metadata['config'], self.config, self.extend, str(path))
        here = self.experiment.describe_dataset()
        if metadata['dataset'] != here:
            keys = [key for key in here if metadata['dataset'].get(key) != here[key]]
            raise ConfigError(
                f'{path} was trained on other data ({", ".join(keys)} differ); use the same data, or another --workdir'
            )
        self.best = self.best_saved = metadata['best']
        self.evaluation = metadata['evaluation']
        self.log.resume(metadata['pending'], metadata['seconds'])
        self.evaluation_due = metadata.get('evaluation_due', False)
        self.rollbacks = max(self.rollbacks, metadata.get('rollbacks', 0))
        self._check_best()
        logger.info('Continuing %s after iteration %d.', self.folder.path, step)
        return replicate(checkpoint.restore(path, template))

    def _check_best(self) -> None:
        """Sees that the best checkpoint is whole; if it is not, takes the best of those that are left."""
        while self.best:
            path = self.folder.checkpoints / str(self.best['step'])
            try:
                checkpoint.verify(path)
                return
            except InputFileError as error:
                lost = self.best
                if self.folder.primary and path.exists():
                    checkpoint.set_aside(path)
                distributed.barrier()  # before the others look
                left = set(checkpoint.steps(self.folder.checkpoints))
                rows = [row for row in self.folder.read_metrics() if row['split'] == 'validation' and row['step'] in left]
                rows.sort(key=lambda row: (-row['accuracy'], row['step']))
                self.best = self.best_saved = {key: rows[0][key] for key in ('step', 'accuracy')} if rows else None
                logger.warning(
                    '%s. It was the best on validation, %.2f %% after iteration %d, and was set aside; now the best is %s.',
                    error,
                    100 * lost['accuracy'],
                    lost['step'],
                    f'that of iteration {rows[0]["step"]}, {100 * rows[0]["accuracy"]:.2f} %' if rows else 'yet to come',
                )

    def _create_evaluator(self, split: Split) -> Evaluator:
        dataset = self.experiment.dataset
        return Evaluator(
            self.experiment.model,
            split,
            mean=dataset.mean,
            std=dataset.std,
            dtype=self.experiment.dtype,
            batch_size=self.config['eval_batch_size'],
            num_classes=dataset.num_classes,
            tta=self.config['tta'],
        )

    def _run_epochs(self) -> bool:
        """Trains to the last step; returns False if the run has diverged and is to go back to its last checkpoint."""
        try:
            if self.evaluation_due:
                self._evaluate_and_save()
            if self.step < self.experiment.total_steps:
                self._run_steps()
        except DivergedError as error:
            if self.rollbacks >= self.config['divergence_retries']:
                raise
            self.rollbacks += 1
            self.stop.unsaved = False
            logger.warning(
                '%s. Retry %d of %d: back to the last checkpoint, at %g times the learning rate.',
                str(error).partition(';')[0],
                self.rollbacks,
                self.config['divergence_retries'],
                0.5**self.rollbacks,
            )
            return False
        return True

    def _run_steps(self) -> None:
        experiment, config = self.experiment, self.config
        per_epoch, batch_size = experiment.steps_per_epoch, config['batch_size']
        positions, key = device_positions(batch_size), seed_key(config['seed'])
        data = replicate({'image': experiment.train.image, 'label': experiment.train.label})
        compiled, epoch, dispatches = None, None, 0
        with self.log.bar:
            while self.step < experiment.total_steps:
                start = self.step % per_epoch
                if epoch != self.step // per_epoch:
                    epoch = self.step // per_epoch
                    order = replicate(epoch_order(config['seed'], epoch, len(experiment.train.label), batch_size))
                arguments = (self.state, positions, data, order, key)
                if compiled is None:
                    failpoints.reach('compile')
                    before = time.monotonic()
                    # Both programs now, so that the state is saved whenever XLA compiles and hears no signal.
                    self.evaluator.compile(self.state.variables)
                    compiled = compile_parallel(parallel_train_steps(experiment), *arguments, np.int32(0), np.int32(0))
                    unit = jax.device_count() * experiment.accumulation
                    self.memory['scratch_bytes'] = check_fits(compiled, batch_size, unit)
                    if self.folder.primary:
                        self.folder.write_json('memory.json', self.memory)
                    self.log.compiled(self.step + 1, time.monotonic() - before)
                    failpoints.reach('compiled')
                count, before = self.log.pace.size(self._steps_to_evaluation(per_epoch - start)), time.monotonic()
                self.stop.unsaved = True
                failpoints.reach('dispatch')
                self.state, metrics = compiled(*arguments, np.int32(start), np.int32(count))
                metrics = jax.device_get(metrics)  # waits for the device
                self.log.pace.measured(count, time.monotonic() - before)
                self._log(start, count, metrics)
                dispatches += 1
                if dispatches == 2:
                    self.log.forecast(self.step)
                self._evaluate_and_save()
                self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if (number := distributed.any_signal(self.stop.number)) is not None:
            self.stop.number = number
            if self.saved_step != self.step:
                self._save()
            raise Interrupted(number)

    def _log(self, start: int, count: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of `count` steps and hands them on, if they are finite."""
        for i in range(start, start + count):
            values = {name: float(metrics[name][i]) for name in metrics if name != 'per_layer_grad_norms'}
            self.step += 1
            self.grad_norm = values['grad_norm']
            failpoints.reach('step')
            if not np.isfinite(list(values.values())).all():
                proxy = f', proxy loss {values["proxy_loss"]:g}' if self.experiment.proxy else ''
                raise self._diverged(f'loss {values["loss"]:g}{proxy}')
            per_layer_grad_norms = metrics['per_layer_grad_norms'][i] if 'per_layer_grad_norms' in metrics else None
            self.log.step(self.step, values, self._learning_rate(), per_layer_grad_norms)
        self.log.progress(self.step, values)

    def _learning_rate(self) -> float:
        return float(self.experiment.schedule(self.step - 1))  # of the step just done

    def _diverged(self, what: str) -> DivergedError:
        norm = '' if self.grad_norm is None else f', gradient norm {self.grad_norm:g}'
        return DivergedError(
            f'training diverged at iteration {self.step}: {what}{norm}, learning rate {self._learning_rate():g}; '
            'lower learning_rate or set clip_norm, and use another --workdir; or go on from the last checkpoint at half the '
            f'rate: --config.divergence_retries={self.rollbacks + 1}'
        )

    def _steps_to_evaluation(self, steps: int) -> int:
        """Returns how many of `steps` may be made before the next evaluation within an epoch."""
        every = self.config['eval_every_steps']
        return min(steps, every - self.step % every) if every else steps

    def _evaluate_and_save(self) -> None:
        """Evaluates and saves if that is due after this step: each by itself, and both after the last one."""
        epoch, within = divmod(self.step, self.experiment.steps_per_epoch)
        if not within:
            failpoints.reach('epoch')
        config, last = self.config, self.step == self.experiment.total_steps
        improved, every = False, config['eval_every_steps']
        if last or (self.step % every == 0 if every else not within and epoch % config['eval_every_epochs'] == 0):
            before, self.evaluation_due = time.monotonic(), True
            row = self._evaluate(self.evaluator, self.state.variables, self.state.ema)
            self.evaluation, self.evaluation_due = row, False
            self.log.evaluation(self.split, self.step, row, time.monotonic() - before)
            accuracy = row['accuracy']
            if self.split == 'validation' and (self.best is None or accuracy > self.best['accuracy']):
                self.best, improved = {'step': self.step, 'accuracy': accuracy}, True
        if last or improved or (not within and epoch % config['checkpoint_every_epochs'] == 0):
            self._save()

    def _evaluate(self, evaluator: Evaluator, variables: Any, ema: Any) -> dict[str, Any]:
        failpoints.reach('evaluate')

        def progress(done, batches):
            self.log.bar.update(self.step, f'evaluating, batch {done} of {batches}')
            failpoints.reach('evaluation')
            if jax.process_count() == 1:  # several would have to agree on it
                self._stop_if_asked()

        metrics = evaluator(variables, progress)
        row = {name: metrics[name] for name in ('loss', 'accuracy', 'count')}
        if ema:
            average = evaluator(ema, progress)
            row.update(ema_loss=average['loss'], ema_accuracy=average['accuracy'])
        if failpoints.reach('metric'):
            row['loss'] = float('nan')
        if not np.isfinite(list(row.values())).all():
            raise self._diverged(f'loss {row["loss"]:g} in the evaluation')
        if self.config['tta'] != 'none':
            row['tta'] = self.config['tta']
        return row

    def _save(self) -> None:
        # The loss of a step says nothing about the update that follows it.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(self.state))):
            raise self._diverged('the parameters are no longer finite')
        saved = True
        if self.folder.primary:
            metadata = {
                'config': self.config,
                'dataset': self.experiment.describe_dataset(),
                'best': self.best,
                'pending': self.log.pending,
                'evaluation': self.evaluation,
                'evaluation_due': self.evaluation_due,
                'rollbacks': self.rollbacks,
                'seconds': self.log.seconds,
                'environment': environment(),
            }
            saved = self._write_checkpoint(metadata)
        failpoints.reach('agree')
        if distributed.broadcast(int(saved)):  # and nobody goes on before it is written
            self.saved_step, self.best_saved, self.stop.unsaved = self.step, self.best, False
        else:
            self.best = self.best_saved  # an epoch that no checkpoint has cannot be the result

    def _write_checkpoint(self, metadata: Mapping[str, Any]) -> bool:
        """Returns False, with a warning, if it cannot be written and there will be another."""
        try:
            self.folder.flush()  # the rows before the checkpoint that counts on them
            checkpoint.save(self.folder.checkpoints, self.state, metadata)
            failpoints.reach('saved')
            # The one before the latest stays, for the day the latest is damaged, and so does the best one at that time.
            kept = checkpoint.steps(self.folder.checkpoints)[-2:]
            best = [best['step'] for best in (self.best, self.best_saved) if best]
            checkpoint.keep_only(self.folder.checkpoints, [*kept, *best])
        except ResourceError as error:
            if self.step == self.experiment.total_steps or self.stop.number is not None:
                raise
            logger.warning('%s. The run goes on and tries again at the end of an epoch', error)
            return False
        return True

    def _result(self) -> dict[str, Any]:
        """Evaluates what the run has come to on the test set, unless that has just been done."""
        row, selected, step = self.evaluation, 'last', self.step
        self.result_variables = self.state.variables
        self._check_best()
        if self.best:
            selected, step = 'validation', self.best['step']
            path = self.folder.checkpoints / str(step)
            parts = {'params': self.state.params, 'batch_stats': self.state.batch_stats, 'ema': self.state.ema}
            variables = checkpoint.restore(path, jax.eval_shape(lambda: parts))
            ema = variables.pop('ema')
            self.result_variables = variables
            row = self._evaluate(self._create_evaluator(self.experiment.dataset.test), variables, ema)
            self.log.row('test', step, row)
            plot(self.folder)
        return {
            'split': 'test',
            'selected': selected,
            'tta': self.config['tta'],
            'step': step,
            'epoch': -(-step // self.experiment.steps_per_epoch),  # the one it lies in
            **row,
            'seconds': self.log.seconds,
        }
