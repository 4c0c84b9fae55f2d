"""The log of a run: metric rows in its folder, log lines and a progress bar on the console."""

import logging
import time
from collections.abc import Mapping

import jax
import numpy as np

from resnet_jax.network import model_kwargs
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.progress import Progress
from resnet_jax.runtime import console
from resnet_jax.runtime.dispatch import Pace
from resnet_jax.training.experiment import Experiment, describe_parameters
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import kernel_paths
from resnet_jax.typing import Json

logger = logging.getLogger(__name__)


def report_result(result: Json) -> None:
    """Logs a run's result."""
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
        _averaged(result.get('tta', 'none')),
    )
    if 'ema_accuracy' in result:
        logger.info('with averaged parameters: accuracy %.2f %%, loss %.4f', 100 * result['ema_accuracy'], result['ema_loss'])


def _averaged(tta: str) -> str:
    return '' if tta == 'none' else f', logits averaged over views ({tta})'


class RunLog:
    """The log of one run; only the first process writes rows.

    Attributes:
      pace: the time per step.
      bar: the progress bar, a context manager.
      progress: the run's progress; `pending` holds the metrics of the steps since the last row.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder):
        self._experiment, self._config, self._folder = experiment, experiment.config, folder
        self.pace = Pace()
        self.bar = console.ProgressBar(experiment.total_steps, self._config.model)
        self.progress = Progress()
        self._started = time.monotonic()
        self._evaluation_seconds = 0.0
        self._status = ''
        selects = f' (of the hardest {100 * self._config.selected_fraction:g} % of each batch)'
        self._selects = selects if experiment.proxy else ''  # which examples the training loss and accuracy cover
        self._kernels: list[str] = []
        self._since: list[dict[str, float]] = []  # metrics of the steps since the last evaluation

    def resume(self, progress: Progress) -> None:
        """Continues the log from a checkpoint; the elapsed time never decreases, not even after a rollback."""
        self.progress, self._started = progress, min(self._started, time.monotonic() - progress.seconds)
        self._since.clear()

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, including earlier starts."""
        return time.monotonic() - self._started

    def describe(self, state: TrainState) -> None:
        """Logs the network, its size, the data set and the length of the run."""
        experiment, config = self._experiment, self._config
        self._kernels = kernel_paths(state.params)
        if experiment.proxy:
            logger.info(
                '%s, %s parameters, selects what %s trains on: %d of %d images on each device',
                config.proxy_model,
                describe_parameters(state.proxy['params']),
                config.model,
                experiment.selected_count,
                experiment.device_batch_size,
            )
        logger.info(
            '%s, %s parameters, %s; %s: %s training images%s; %d epochs of %d iterations, batch %d; %s',
            config.model,
            describe_parameters(state.params),
            config.dtype,
            config.dataset,
            f'{experiment.num_examples:,}',
            f', {config.validation_size:,} held out' if config.validation_size else '',
            config.num_epochs,
            experiment.steps_per_epoch,
            config.batch_size,
            f'{jax.device_count()} {jax.local_devices()[0].platform} device(s)',
        )

        self.describe_frozen(state)
        chosen = model_kwargs(config, experiment.info.image_shape)
        if chosen != dict(config.model_kwargs):
            height, width, _ = experiment.info.image_shape
            logger.info(
                '%s has stem=%s, because the images are %d x %d; model_kwargs.stem=cifar keeps the stem for small ones.',
                config.model,
                chosen['stem'],
                height,
                width,
            )
        dropped = experiment.num_examples - experiment.steps_per_epoch * config.batch_size
        if 10 * dropped > experiment.num_examples:
            logger.warning(
                'Each epoch leaves out %d of the %d training images, which do not fill another batch of %d; a smaller '
                'batch_size leaves out fewer.',
                dropped,
                experiment.num_examples,
                config.batch_size,
            )

    def describe_frozen(self, state: TrainState) -> None:
        """Logs how many parameters train from now on, and which, if some are frozen."""
        frozen = self._experiment.in_phase(self._experiment.phase_at(self.progress.step)).frozen
        if not frozen.names:
            if self._experiment.freezing:
                logger.info('From epoch %d on all parameters train.', self.progress.step // self._experiment.steps_per_epoch)
            return
        moving, still = frozen.split(state.params)
        logger.info(
            'From epoch %d on %s of %s parameters train (%s); %s are frozen, and so are the statistics of %d BatchNorm layers.',
            self.progress.step // self._experiment.steps_per_epoch,
            describe_parameters(moving),
            describe_parameters(state.params),
            ', '.join([*moving][:8]) + (', ...' if len(moving) > 8 else ''),
            describe_parameters(still),
            len({name.rpartition('/')[0] for name in frozen.names if name.startswith('batch_stats/')}),
        )

    def compiled(self, step: int, seconds: float) -> None:
        """Logs that the first step starts after `seconds` of compiling."""
        logger.info(
            'Iteration %d starts %.1f s after the process; compiling it, or reading it compiled, took %.1f s.',
            step,
            console.seconds_since_start(),
            seconds,
        )

    def step(self, step: int, metrics: dict[str, float], learning_rate: float, per_layer_grad_norms: np.ndarray | None) -> None:
        """Records the metrics of a step; writes a row of their means every `log_every` steps and after the last step."""
        pending = self.progress.pending
        pending.append(metrics)
        self._since.append(metrics)
        due = step % self._config.log_every == 0 or step == self._experiment.total_steps
        if per_layer_grad_norms is not None and (due or step == 1):
            norms = dict(zip(self._kernels, per_layer_grad_norms.tolist(), strict=True))
            self.row('gradients', step, {'norms': norms})
        if not due:
            return
        means = {name: float(np.mean([row[name] for row in pending])) for name in metrics}
        pending.clear()
        row = {**means, 'learning_rate': learning_rate}
        if self._selects:
            row['selected_fraction'] = self._config.selected_fraction
        self.row('train', step, row, images_per_second=self._images_per_second())
        logger.info(
            'Iteration %d of %d, loss %.4f, accuracy %.2f %%%s, learning rate %.3g, %.0f images/s, %s left',
            step,
            self._experiment.total_steps,
            means['loss'],
            100 * means['accuracy'],
            self._selects,
            learning_rate,
            self._images_per_second(),
            console.duration(self._seconds_left(step)),
        )

    def show_progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Updates the progress bar with the metrics of the last step."""
        self._status = (
            f'loss {metrics["loss"]:.3f}  accuracy {100 * metrics["accuracy"]:.1f} %{self._selects}  '
            f'{self._images_per_second():,.0f} images/s  {console.duration(self._seconds_left(step))} left'
        )
        self.bar.update(step, self._status)

    def evaluation(self, split: str, step: int, metrics: Json, seconds: float) -> None:
        """Writes the metrics of an evaluation that took `seconds`; logs them beside the training since the last one."""
        self._evaluation_seconds = seconds
        self.bar.update(step, self._status)  # replaces the progress of the evaluation
        self.row(split, step, metrics)
        train = ''
        if self._since:  # none if only the evaluation was left
            loss, accuracy = (float(np.mean([row[name] for row in self._since])) for name in ('loss', 'accuracy'))
            train = f'train loss {loss:.4f}, accuracy {100 * accuracy:.2f} %{self._selects}; '
        self._since.clear()
        logger.info(
            'Epoch %.4g: %s%s loss %.4f, accuracy %.2f %%%s%s',
            step / self._experiment.steps_per_epoch,
            train,
            split,
            metrics['loss'],
            100 * metrics['accuracy'],
            f'; with averaged parameters {100 * metrics["ema_accuracy"]:.2f} %' if 'ema_accuracy' in metrics else '',
            _averaged(self._config.tta),
        )

    def row(self, split: str, step: int, values: Json, **timing: float) -> None:
        """Writes a row to metrics.jsonl and its timing to timing.jsonl."""
        row = {'step': step, 'epoch': step / self._experiment.steps_per_epoch, 'split': split, **values}
        if self._folder.primary:
            self._folder.write_metrics([row], seconds=self.seconds, **timing)

    def forecast(self, step: int) -> None:
        """Logs how long the rest of the run will take."""
        seconds, platform = self._seconds_left(step), jax.local_devices()[0].platform
        logger.info(
            'At about %.0f images/s the training takes about %s, evaluation not counted.',
            self._images_per_second(),
            console.duration(seconds),
        )
        if platform == 'cpu' and seconds > 3 * 3600:
            logger.info(
                'That is long: this config is meant for a GPU. On a CPU d2l_resnet18 is practical '
                '(about half an hour on 2 cores), and quickstart takes less than a minute.'
            )

    def _images_per_second(self) -> float:
        # 0 before the first measurement. With several processes the first dispatch compiles and is not measured.
        return self._config.batch_size / self.pace.per_step if self.pace.per_step else 0.0

    def _seconds_left(self, step: int) -> float:
        steps = self._experiment.total_steps - step
        every = self._config.eval_every_steps or self._experiment.steps_per_epoch * self._config.eval_every_epochs
        return steps * self.pace.per_step + steps / every * self._evaluation_seconds
