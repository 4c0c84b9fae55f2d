"""A run, from the first step to the last: train, evaluate, log, checkpoint, continue where it stopped."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import Split
from resnet_jax.errors import ConfigError, DivergedError, Interrupted
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.evaluation.predictions import Predictions, predictor
from resnet_jax.evaluation.record import describe_model, write_record
from resnet_jax.report.page import write_run_report
from resnet_jax.training import checkpoint, console
from resnet_jax.training.config import difference, validate
from resnet_jax.training.experiment import Experiment, create_experiment, epoch_order, parallel_train_steps
from resnet_jax.training.memory import check_fits, check_state_fits, out_of_memory
from resnet_jax.training.run_folder import RunFolder, environment
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import compile_parallel, device_positions, kernel_paths, replicate, seed_key
from resnet_jax.training.stop import StopSignal

logger = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains a config in a run folder, or continues it there, and returns its result.

    The result is of the last epoch or, if `validation_size` is set, of the epoch with the best validation accuracy; never of
    the epoch that is best on the test set. A run that is finished is not repeated.

    Returns:
      What result.json holds: 'split', 'test_views' (what the logits were averaged over), 'accuracy', 'loss', 'count', 'step',
      'epoch', and 'ema_accuracy' and 'ema_loss' if the config has an `ema_decay`.

    Raises:
      ConfigError, InputFileError, DivergedError, ResourceError, RunFolderInUseError: see `resnet_jax.errors`.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    console.log_to_console()
    values = validate(config)
    with RunFolder(workdir, values) as folder:
        result = folder.read_json('result.json')
        if result is None:
            result = _Run(create_experiment(values), folder).train()
        else:
            logger.info('%s is finished; nothing to do.', folder.path)
        _report(folder.path, result)
        return result


def _report(path: Path, result: Mapping[str, Any]) -> None:
    which = 'best on validation' if result['selected'] == 'validation' else 'the last'
    logger.info(
        '%s accuracy %.2f %% (%d of %d), loss %.4f, epoch %d (%s)%s',
        result['split'].capitalize(),
        100 * result['accuracy'],
        round(result['accuracy'] * result['count']),
        result['count'],
        result['loss'],
        result['epoch'],
        which,
        _averaged(result.get('test_views', 'none')),
    )
    if 'ema_accuracy' in result:
        logger.info('with averaged parameters: accuracy %.2f %%, loss %.4f', 100 * result['ema_accuracy'], result['ema_loss'])
    logger.info('Files: %s', ', '.join(str(p) for p in sorted(path.iterdir()) if not p.name.startswith('.')))


def _averaged(test_views: str) -> str:
    return '' if test_views == 'none' else f', logits averaged over views ({test_views})'


class _Run:
    """The state of a run: what is on the devices, what is to be logged, and what a checkpoint must add to the TrainState."""

    def __init__(self, experiment: Experiment, folder: RunFolder):
        self.experiment, self.folder, self.config = experiment, folder, experiment.config
        self.pace = console.Pace()
        self.seconds = 0.0  # spent on this run, earlier starts included
        self.best: dict[str, Any] | None = None  # {'step', 'accuracy'} on the validation split
        self.best_saved: dict[str, Any] | None = None  # the same, as the latest checkpoint has it
        self.pending: list[dict[str, float]] = []  # metrics of the steps since the last row
        self.evaluation: dict[str, Any] = {}  # the latest row of the split evaluated during training
        self.evaluation_seconds = 0.0
        self.saved_step = -1
        selects = f' (of the hardest {100 * self.config["selected_fraction"]:g} % of each batch)'
        self.selects = selects if experiment.proxy else ''  # what loss and accuracy in training are of
        self.bar = console.ProgressBar(experiment.total_steps, self.config['model'])

    def train(self) -> dict[str, Any]:
        """Trains from the latest checkpoint, or from the start, to the last step; returns the result."""
        experiment, folder = self.experiment, self.folder
        self.state = self._restore()
        self.step = int(self.state.step)
        self.split = 'validation' if experiment.validation else 'test'
        if folder.primary:
            folder.start(self.step, environment(), ('train', 'gradients', self.split))
        self._describe()
        self.evaluator = self._create_evaluator(experiment.validation or experiment.dataset.test)
        self.started = time.monotonic() - self.seconds
        with StopSignal() as self.stop:
            try:
                self._run_epochs()
            except jax.errors.JaxRuntimeError as error:
                if 'RESOURCE_EXHAUSTED' not in str(error):
                    raise
                raise out_of_memory(self.config['batch_size'], 0) from None
            finally:
                self._plot()
        result = self._result()
        if folder.primary:
            self._record()
            folder.write_json('result.json', result)
            write_run_report(folder.path)
        return result

    def _restore(self) -> TrainState:
        template = jax.eval_shape(self.experiment.create_state)
        self.memory = check_state_fits(template, self.config['model'])
        path = checkpoint.latest(self.folder.checkpoints) if self.folder.primary else None
        step = console.agree(int(path.name) if path else -1)
        if step < 0:
            return replicate(self.experiment.create_state())
        path = self.folder.checkpoints / str(step)
        metadata = checkpoint.read_metadata(path)
        if changes := difference(metadata['config'], self.config):
            raise ConfigError(f'{path} was trained with another config ({"; ".join(changes)}); choose another --workdir')
        here = self.experiment.describe_dataset()
        if metadata['dataset'] != here:
            keys = [key for key in here if metadata['dataset'].get(key) != here[key]]
            raise ConfigError(
                f'{path} was trained on other data ({", ".join(keys)} differ); use the same data, or another --workdir'
            )
        self.best = self.best_saved = metadata['best']
        self.pending, self.evaluation, self.seconds = metadata['pending'], metadata['evaluation'], metadata['seconds']
        logger.info('Continuing %s after iteration %d.', self.folder.path, step)
        return replicate(checkpoint.restore(path, template))

    def _describe(self) -> None:
        experiment, config = self.experiment, self.config
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        if experiment.proxy:
            logger.info(
                '%s, %s parameters, selects what %s trains on: %d of %d images on each device',
                config['proxy_model'],
                f'{sum(x.size for x in jax.tree.leaves(self.state.proxy["params"])):,}',
                config['model'],
                experiment.selected_count,
                config['batch_size'] // jax.device_count(),
            )
        held_out = f', {len(experiment.validation.label):,} held out' if experiment.validation else ''
        logger.info(
            '%s, %s parameters, %s; %s: %s training images%s; %d epochs of %d iterations, batch %d; %s',
            config['model'],
            f'{parameters:,}',
            config['dtype'],
            config['dataset'],
            f'{len(experiment.train.label):,}',
            held_out,
            config['num_epochs'],
            experiment.steps_per_epoch,
            config['batch_size'],
            f'{jax.device_count()} {jax.local_devices()[0].platform} device(s)',
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
            test_views=self.config['test_views'],
        )

    def _run_epochs(self) -> None:
        experiment, config = self.experiment, self.config
        per_epoch, batch_size = experiment.steps_per_epoch, config['batch_size']
        if self.step == experiment.total_steps:
            return
        positions, key = device_positions(batch_size), seed_key(config['seed'])
        data = replicate({'image': experiment.train.image, 'label': experiment.train.label})
        compiled, epoch, dispatches = None, None, 0
        with self.bar:
            while self.step < experiment.total_steps:
                start = self.step % per_epoch
                if epoch != self.step // per_epoch:
                    epoch = self.step // per_epoch
                    order = replicate(epoch_order(config['seed'], epoch, len(experiment.train.label), batch_size))
                arguments = (self.state, positions, data, order, key)
                if compiled is None:
                    before = time.monotonic()
                    compiled = compile_parallel(parallel_train_steps(experiment), *arguments, np.int32(0), np.int32(0))
                    unit = jax.device_count() * experiment.accumulation
                    self.memory['scratch_bytes'] = check_fits(compiled, batch_size, unit)
                    if self.folder.primary:
                        self.folder.write_json('memory.json', self.memory)
                    logger.info(
                        'Iteration %d starts %.1f s after the process; compiling it, or reading it compiled, took %.1f s.',
                        self.step + 1,
                        console.seconds_since_start(),
                        time.monotonic() - before,
                    )
                count, before = self.pace.size(self._steps_to_evaluation(per_epoch - start)), time.monotonic()
                self.state, metrics = compiled(*arguments, np.int32(start), np.int32(count))
                metrics = jax.device_get(metrics)  # waits for the device
                self.pace.measured(count, time.monotonic() - before)
                self._log(start, count, metrics)
                dispatches += 1
                if dispatches == 2:
                    self._forecast()
                self._evaluate_and_save()
                if self.stop.number is not None:
                    if self.saved_step != self.step:
                        self._save()
                    raise Interrupted(self.stop.number)

    def _log(self, start: int, count: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of `count` steps: checks them, and writes a row every `log_every` steps."""
        for i in range(start, start + count):
            values = {name: float(metrics[name][i]) for name in metrics if name != 'layer_grad_norms'}
            self.step += 1
            if not np.isfinite(list(values.values())).all():
                proxy = f', proxy loss {values["proxy_loss"]:g}' if self.selects else ''
                raise self._diverged(f'loss {values["loss"]:g}, gradient norm {values["grad_norm"]:g}{proxy}')
            self.pending.append(values)
            due = self.step % self.config['log_every'] == 0 or self.step == self.experiment.total_steps
            if 'layer_grad_norms' in metrics and (due or self.step == 1):
                norms = dict(zip(kernel_paths(self.state.params), metrics['layer_grad_norms'][i].tolist(), strict=True))
                self._write_row('gradients', self.step, {'norms': norms})
            if due:
                learning_rate = self._learning_rate()
                means = {name: float(np.mean([step[name] for step in self.pending])) for name in values}
                self.pending = []
                row = {**means, 'learning_rate': learning_rate}
                if self.selects:
                    row['selected_fraction'] = self.config['selected_fraction']
                self._write_row('train', self.step, row, images_per_second=self._images_per_second())
                logger.info(
                    'Iteration %d of %d, loss %.4f, accuracy %.2f %%%s, learning rate %.3g, %.0f images/s, %s left',
                    self.step,
                    self.experiment.total_steps,
                    means['loss'],
                    100 * means['accuracy'],
                    self.selects,
                    learning_rate,
                    self._images_per_second(),
                    console.duration(self._seconds_left()),
                )
        self.bar.update(
            self.step,
            f'loss {values["loss"]:.3f}  accuracy {100 * values["accuracy"]:.1f} %{self.selects}  '
            f'{self._images_per_second():,.0f} images/s  {console.duration(self._seconds_left())} left',
        )

    def _learning_rate(self) -> float:
        return float(self.experiment.schedule(self.step - 1))  # of the step just done

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f'training diverged at iteration {self.step}: {what}, learning rate {self._learning_rate():g}; '
            'lower learning_rate or set clip_norm, and use another --workdir'
        )

    def _write_row(self, split: str, step: int, values: Mapping[str, Any], **timing: float) -> None:
        row = {'step': step, 'epoch': step / self.experiment.steps_per_epoch, 'split': split, **values}
        if self.folder.primary:
            self.folder.write_metrics([row], seconds=time.monotonic() - self.started, **timing)

    def _images_per_second(self) -> float:
        # 0 before the first measurement, as after the first of several processes' dispatches, which compiles.
        return self.config['batch_size'] / self.pace.per_step if self.pace.per_step else 0.0

    def _seconds_left(self) -> float:
        steps = self.experiment.total_steps - self.step
        every = self.config['eval_every_steps'] or self.experiment.steps_per_epoch * self.config['eval_every_epochs']
        evaluations = steps / every
        return steps * self.pace.per_step + evaluations * self.evaluation_seconds

    def _forecast(self) -> None:
        seconds, platform = self._seconds_left(), jax.local_devices()[0].platform
        logger.info(
            'At about %.0f images/s the training takes about %s, evaluation not counted.',
            self._images_per_second(),
            console.duration(seconds),
        )
        if platform == 'cpu' and seconds > 3 * 3600:
            logger.info(
                'That is long: this config is meant for a GPU. On a CPU configs/d2l_resnet18.py is practical '
                '(about half an hour on 2 cores), and configs/quickstart.py takes less than a minute.'
            )

    def _steps_to_evaluation(self, steps: int) -> int:
        """Returns how many of `steps` may be made before the next evaluation within an epoch."""
        every = self.config['eval_every_steps']
        return min(steps, every - self.step % every) if every else steps

    def _evaluate_and_save(self) -> None:
        """Evaluates and saves if that is due after this step: each by itself, and both after the last one."""
        epoch, within = divmod(self.step, self.experiment.steps_per_epoch)
        config, last = self.config, self.step == self.experiment.total_steps
        improved, every = False, config['eval_every_steps']
        if last or (self.step % every == 0 if every else not within and epoch % config['eval_every_epochs'] == 0):
            before = time.monotonic()
            self.evaluation = row = self._evaluate(self.evaluator, self.state.variables, self.state.ema)
            self.evaluation_seconds = time.monotonic() - before
            self._write_row(self.split, self.step, row)
            logger.info(
                'Epoch %.4g: %s loss %.4f, accuracy %.2f %%%s%s',
                self.step / self.experiment.steps_per_epoch,
                self.split,
                row['loss'],
                100 * row['accuracy'],
                f'; with averaged parameters {100 * row["ema_accuracy"]:.2f} %' if 'ema_accuracy' in row else '',
                _averaged(config['test_views']),
            )
            accuracy = row['accuracy']
            if self.split == 'validation' and (self.best is None or accuracy > self.best['accuracy']):
                self.best, improved = {'step': self.step, 'accuracy': accuracy}, True
        if last or improved or (not within and epoch % config['checkpoint_every_epochs'] == 0):
            self._save()

    def _evaluate(self, evaluator: Evaluator, variables: Any, ema: Any) -> dict[str, Any]:
        def progress(done, batches):
            self.bar.update(self.step, f'evaluating, batch {done} of {batches}')

        metrics = evaluator(variables, progress)
        row = {name: metrics[name] for name in ('loss', 'accuracy', 'count')}
        if ema:
            average = evaluator(ema, progress)
            row.update(ema_loss=average['loss'], ema_accuracy=average['accuracy'])
        if not np.isfinite(list(row.values())).all():
            raise self._diverged(f'loss {row["loss"]:g} in the evaluation')
        if self.config['test_views'] != 'none':
            row['test_views'] = self.config['test_views']
        return row

    def _save(self) -> None:
        # The loss of a step says nothing about the update that follows it.
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(self.state))):
            raise self._diverged('the parameters are no longer finite')
        if self.folder.primary:
            self.seconds = time.monotonic() - self.started
            metadata = {
                'config': self.config,
                'dataset': self.experiment.describe_dataset(),
                'best': self.best,
                'pending': self.pending,
                'evaluation': self.evaluation,
                'seconds': self.seconds,
                'environment': environment(),
            }
            checkpoint.save(self.folder.checkpoints, self.state, metadata)
            # The one before the latest stays, for the day the latest is damaged, and so does the best one at that time.
            kept = checkpoint.steps(self.folder.checkpoints)[-2:]
            best = [best['step'] for best in (self.best, self.best_saved) if best]
            checkpoint.keep_only(self.folder.checkpoints, [*kept, *best])
            self.best_saved = self.best
        self.saved_step = self.step
        console.agree(self.step)  # nobody goes on before it is written

    def _result(self) -> dict[str, Any]:
        """Evaluates what the run has come to on the test set, unless that has just been done."""
        row, selected, step = self.evaluation, 'last', self.step
        self.result_variables = self.state.variables
        if self.best:
            selected, step = 'validation', self.best['step']
            path = self.folder.checkpoints / str(step)
            checkpoint.verify(path)
            parts = {'params': self.state.params, 'batch_stats': self.state.batch_stats, 'ema': self.state.ema}
            variables = checkpoint.restore(path, jax.eval_shape(lambda: parts))
            ema = variables.pop('ema')
            self.result_variables = variables
            row = self._evaluate(self._create_evaluator(self.experiment.dataset.test), variables, ema)
            self._write_row('test', step, row)
            self._plot()
        return {
            'split': 'test',
            'selected': selected,
            'test_views': self.config['test_views'],
            'step': step,
            'epoch': -(-step // self.experiment.steps_per_epoch),  # the one it lies in
            **row,
            'seconds': time.monotonic() - self.started,
        }

    def _record(self) -> None:
        """Leaves the answers to the test set, and what the network is, for the report."""
        dataset = self.experiment.dataset
        height, _, channels = dataset.image_shape
        try:
            answer = predictor(
                self.experiment.model,
                self.result_variables,
                mean=dataset.mean,
                std=dataset.std,
                dtype=self.experiment.dtype,
                batch_size=self.config['eval_batch_size'],
                test_views=self.config['test_views'],
            )
            answers = answer(dataset.test.image)
            predictions = Predictions(answers, dataset.test.label, dataset.fingerprint, self.config['test_views'])
            write_record(self.folder.path, predictions, dataset, self.result_variables)
            self.folder.write_json('model.json', describe_model(self.experiment.model, height, channels))
        except OSError as error:  # the run has its result without them
            logger.warning('The files for the report could not be written: %s', error)

    def _plot(self) -> None:
        if self.folder.primary and (self.folder.path / 'metrics.jsonl').exists():
            from resnet_jax.report.plots import plot_training  # matplotlib takes half a second

            try:
                plot_training(self.folder.path)
            except (OSError, ValueError) as error:  # it must not hide what ended the run, nor end it
                logger.warning('The plot could not be drawn: %s', error)
