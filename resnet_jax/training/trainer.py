"""One run: starts or continues it, trains, evaluates, saves, and returns the result."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from resnet_jax import data, plugins
from resnet_jax.classifier import Classifier, create_classifier
from resnet_jax.data import Dataset, Split
from resnet_jax.errors import DivergedError, Interrupted, is_out_of_memory
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.evaluation.record import record_run
from resnet_jax.report.optional import plot_so_far
from resnet_jax.report.page import write_run_report
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.log import RunLog
from resnet_jax.runs.progress import Best, Progress
from resnet_jax.runtime import distributed, failpoints, memory
from resnet_jax.runtime.devices import replicate
from resnet_jax.runtime.environment import environment
from resnet_jax.runtime.profile import Profiler
from resnet_jax.runtime.signals import StopSignal
from resnet_jax.training.api import Callback
from resnet_jax.training.checkpointing import RunCheckpoints
from resnet_jax.training.describe import log_frozen, log_start
from resnet_jax.training.experiment import Experiment, create_experiment
from resnet_jax.training.finetune import RECORD, Start
from resnet_jax.training.program import Program, TrainingProgram
from resnet_jax.training.samples import draw_samples
from resnet_jax.training.step import kernel_paths
from resnet_jax.typing import JsonDict, PyTree, Row, Variables

logger = logging.getLogger(__name__)


class Trainer:
    """Trains one run; holds the state on the devices and the progress."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        folder: RunFolder,
        checkpoints: RunCheckpoints,
        stop: StopSignal,
        callbacks: Sequence[Callback] = (),
        create_program: Callable[[Experiment, Split], Program] = TrainingProgram,
        profile: bool = False,
    ):
        config = experiment.config
        self._experiment, self._config, self._dataset, self._folder = experiment, config, dataset, folder
        self._checkpoints, self._stop, self._callbacks = checkpoints, stop, callbacks
        self._create_program = create_program
        self._profiler = Profiler(folder.path / 'profile' if profile and folder.primary else None)
        self._train, validation = data.training_splits(dataset, config.validation_size, config.train_size, config.seed)
        self._split = 'validation' if validation else 'test'
        largest = experiment.in_phase(len(experiment.freezing.starts) - 1) if experiment.freezing else experiment
        self._memory = memory.check_state_fits(jax.eval_shape(largest.create_state), config.model)
        self._evaluator = self._create_evaluator(validation or dataset.test)
        self.log = RunLog(config, folder, experiment.total_steps, experiment.steps_per_epoch)
        self._grad_norm: float | None = None  # at the latest step

    def train(self) -> tuple[JsonDict, Classifier]:
        """Trains from the latest checkpoint, or from the start, to the last step.

        Returns:
          The contents of result.json, and the trained network.

        Raises:
          DivergedError: the loss or the parameters are not finite.
          Interrupted: a signal stopped the run.
          OutOfMemoryError: the device's memory is insufficient.
        """
        self._begin()
        log_start(self._experiment, self._state, self._progress.step)
        try:
            while (rollbacks := self._run()) is not None:
                self._begin(rollbacks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise memory.out_of_memory(self._config.batch_size, 0) from None
        finally:
            self._evaluator.close()
            plot_so_far(self._folder)
        result, variables = self._result()
        facts = self._dataset.describe(), result['step'], str(self._folder.path)
        classifier = create_classifier(self._config, self._experiment.model, variables, *facts)
        if self._folder.primary:
            record_run(self._folder, classifier, self._dataset, self._config.eval_batch_size)
            self._folder.flush()
            failpoints.reach('result')
            self._folder.write_json('result.json', result)
            failpoints.reach('report')
            write_run_report(self._folder.path)
        return result, classifier

    def _begin(self, rollbacks: int = 0) -> None:
        """Restores the latest checkpoint, or initialises the run if there is none."""
        restored = self._checkpoints.restore()
        if restored:
            self._state, self._progress = restored
            self._experiment = self._experiment.in_phase(self._experiment.phase_of_state(self._progress.step))
        else:
            self._experiment = self._experiment.in_phase(0)
            kernel = self._experiment.whitening_kernel(self._train.image)
            self._state, self._progress = replicate(self._experiment.create_state(kernel)), Progress()
        self._progress.rollbacks = max(rollbacks, self._progress.rollbacks)
        if self._progress.rollbacks:
            scale, now = 0.5**self._progress.rollbacks, self._experiment
            self._experiment = create_experiment(
                self._config, now.info, learning_rate_scale=scale, start=now.start, phase=now.phase
            )
        self.log.resume(self._progress)
        if self._folder.primary:
            again = self._split if self._progress.evaluation_due else None
            self._folder.start(self._progress, environment(plugins.imported), ('train', 'gradients', self._split), again)
        if self._experiment.start and not restored:
            self._start_from(self._experiment.start)

    def _start_from(self, start: Start) -> None:
        """Records which weights the run starts from and saves the state, so that later starts do not need the weights."""
        start.check_loaded()
        distributed.assert_equal('weights of init_from', start.record)
        for line in start.describe(self._dataset):
            logger.info('%s', line)
        if self._folder.primary:
            self._folder.write_json(RECORD, start.record)
        self._save(required=True)

    def _run(self) -> int | None:
        """Trains to the last step; returns the number of rollbacks if the run diverged and must roll back, else None."""
        try:
            if self._progress.evaluation_due:
                self._evaluate_and_save()
            if self._progress.step < self._experiment.total_steps:
                self._run_steps()
        except DivergedError as error:
            retries, rollbacks = self._config.divergence_retries, self._progress.rollbacks + 1
            if rollbacks > retries:
                raise
            self._stop.unsaved = False
            logger.warning(
                '%s. Retry %d of %d: back to the last checkpoint, at %g times the learning rate.',
                str(error).partition(';')[0],
                rollbacks,
                retries,
                0.5**rollbacks,
            )
            return rollbacks
        return None

    def _run_steps(self) -> None:
        if self._folder.primary and not self._progress.step:
            draw_samples(self._experiment, self._train, self._folder.path)
        program, dispatches = self._create_program(self._experiment, self._train), 0
        try:
            self._compile(program)
            with self.log.bar:
                while self._progress.step < self._experiment.total_steps:
                    if (phase := self._experiment.phase_at(self._progress.step)) != self._experiment.phase:
                        self._unfreeze(phase)
                        program.close()
                        program = self._create_program(self._experiment, self._train)
                        self._compile(program)
                    most = 1 if self._profiler.alone else self._steps_to_pause()
                    count, before = self.log.pace.size(most), time.monotonic()
                    self._stop.unsaved = True
                    failpoints.reach('dispatch')
                    with self._profiler.iteration(self._progress.step):
                        self._state, metrics = program.run(self._state, self._progress.step, count)
                    self.log.pace.measured(len(metrics), time.monotonic() - before)
                    self._take(metrics)
                    dispatches += 1
                    if dispatches == 2:
                        self.log.forecast(self._progress.step)
                    self._evaluate_and_save()
                    self._stop_if_asked()
        finally:
            self._profiler.stop()
            program.close()

    def _unfreeze(self, phase: int) -> None:
        """Continues in another phase, in which more layers train."""
        self._experiment = self._experiment.in_phase(phase)
        self._state = replicate(self._experiment.continue_state(jax.device_get(self._state)))
        log_frozen(self._experiment, self._state, self._progress.step)

    def _compile(self, program: Program) -> None:
        failpoints.reach('compile')
        before = time.monotonic()
        # Compile both programs now, when the state is saved: signals are not handled while XLA compiles.
        self._evaluator.compile(self._state.variables)
        compiled = program.compile(self._state)
        unit = jax.device_count() * self._config.gradient_accumulation_steps
        self._memory['scratch_bytes'] = memory.check_fits(compiled, self._config.batch_size, unit)
        if self._folder.primary:
            self._folder.write_json('memory.json', self._memory)
        self.log.compiled(self._progress.step + 1, time.monotonic() - before)
        failpoints.reach('compiled')

    def _steps_to_pause(self) -> int:
        """Returns the number of steps to the end of the epoch, or to the next evaluation within it."""
        step, every = self._progress.step, self._config.eval_every_steps
        per_epoch = self._experiment.steps_per_epoch
        left = per_epoch - step % per_epoch
        return min(left, every - step % every) if every else left

    def _stop_if_asked(self) -> None:
        if (number := distributed.any_signal(self._stop.number)) is not None:
            self._stop.number = number
            if self._checkpoints.saved_step != self._progress.step:
                self._save()
            raise Interrupted(number)

    def _take(self, steps: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Logs the metrics of finished steps; raises DivergedError if they are not finite."""
        for arrays in steps:
            metrics = {name: float(array) for name, array in arrays.items() if name != 'per_layer_grad_norms'}
            norms = None
            if (array := arrays.get('per_layer_grad_norms')) is not None:
                norms = dict(zip(kernel_paths(self._state.params), array.tolist(), strict=True))
            self._progress.step += 1
            self._grad_norm = metrics['grad_norm']
            failpoints.reach('step')
            if not np.isfinite(list(metrics.values())).all():
                proxy = f', proxy loss {metrics["proxy_loss"]:g}' if self._experiment.proxy else ''
                raise self._diverged(f'loss {metrics["loss"]:g}{proxy}')
            for callback in self._callbacks:
                callback.on_step(self._progress.step, {**metrics, 'learning_rate': self._learning_rate()})
            self.log.step(self._progress.step, metrics, self._learning_rate(), norms)
        self.log.show_progress(self._progress.step, metrics)

    def _learning_rate(self) -> float:
        return float(self._experiment.schedule(self._progress.step - 1))  # of the latest step

    def _diverged(self, reason: str) -> DivergedError:
        norm = '' if self._grad_norm is None else f', gradient norm {self._grad_norm:g}'
        return DivergedError(
            f'training diverged at iteration {self._progress.step}: {reason}{norm}, learning rate {self._learning_rate():g}; '
            'lower learning_rate or set clip_norm, and use another run folder; or go on from the last checkpoint at half the '
            f'rate: divergence_retries={self._progress.rollbacks + 1}'
        )

    def _evaluate_and_save(self) -> None:
        """Evaluates and saves, each if due after this step; does both after the last step."""
        config, progress = self._config, self._progress
        epoch, within = divmod(progress.step, self._experiment.steps_per_epoch)
        if not within:
            failpoints.reach('epoch')
        last, every, improved = progress.step == self._experiment.total_steps, config.eval_every_steps, False
        if last or (progress.step % every == 0 if every else not within and epoch % config.eval_every_epochs == 0):
            before, progress.evaluation_due = time.monotonic(), True
            progress.evaluation = metrics = self._evaluate(self._evaluator, self._state.variables, self._state.ema)
            progress.evaluation_due = False
            self.log.evaluation(self._split, progress.step, metrics, time.monotonic() - before)
            for callback in self._callbacks:
                callback.on_evaluation(progress.step, self._split, metrics)
            if self._split == 'validation' and (progress.best is None or metrics['accuracy'] > progress.best.accuracy):
                progress.best, improved = Best(progress.step, metrics['accuracy']), True
        if last or improved or (not within and epoch % config.checkpoint_every_epochs == 0):
            self._save()

    def _create_evaluator(self, split: Split) -> Evaluator:
        experiment, batch_size = self._experiment, self._config.eval_batch_size
        return Evaluator(
            experiment.logits_fn,
            split,
            batch_size=batch_size,
            num_classes=experiment.info.num_classes,
            device_data_gib=self._config.device_data_gib,
        )

    def _evaluate(self, evaluator: Evaluator, variables: Variables, ema: PyTree) -> Row:
        failpoints.reach('evaluate')

        def show_progress(done: int, batches: int) -> None:
            self.log.bar.update(self._progress.step, f'evaluating, batch {done} of {batches}')
            failpoints.reach('evaluation')
            if jax.process_count() == 1:  # several processes would have to stop together
                self._stop_if_asked()

        metrics = evaluator(variables, show_progress)
        row = {name: metrics[name] for name in ('loss', 'accuracy', 'count')}
        if ema:
            average = evaluator(ema, show_progress)
            row.update(ema_loss=average['loss'], ema_accuracy=average['accuracy'])
        if failpoints.reach('metric'):
            row['loss'] = float('nan')
        if not np.isfinite(list(row.values())).all():
            raise self._diverged(f'loss {row["loss"]:g} in the evaluation')
        return row if self._config.tta == 'none' else {**row, 'tta': self._config.tta}

    def _save(self, required: bool = False) -> None:
        # A step's loss is computed before its update, so a finite loss does not mean that the new parameters are finite.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(self._state))):
            raise self._diverged('the parameters are no longer finite')
        self._progress.seconds = self.log.seconds
        last = self._progress.step == self._experiment.total_steps
        if self._checkpoints.save(self._state, self._progress, required=required or last or self._stop.number is not None):
            self._stop.unsaved = False
            for callback in self._callbacks:
                callback.on_checkpoint(self._progress.step, self._folder.checkpoints / str(self._progress.step))

    def _result(self) -> tuple[JsonDict, Variables]:
        """Returns the result on the test set and the network's variables; evaluates unless that has just been done."""
        metrics, selected, step, variables = self._progress.evaluation, 'last', self._progress.step, self._state.variables
        if best := self._checkpoints.restore_best(self._progress, self._state):
            selected, (step, variables, ema) = 'validation', best
            with contextlib.closing(self._create_evaluator(self._dataset.test)) as evaluator:
                metrics = self._evaluate(evaluator, variables, ema)
            self.log.row('test', step, metrics)
            plot_so_far(self._folder)
        epoch = -(-step // self._experiment.steps_per_epoch)  # the epoch of the step
        facts = {'split': 'test', 'selected': selected, 'tta': self._config.tta, 'step': step, 'epoch': epoch}
        return {**facts, **metrics, 'seconds': self.log.seconds}, variables
