"""The log of a run: metric rows in its folder, log lines and a progress bar on the console."""

import logging
import time
from collections.abc import Mapping

import jax
import numpy as np

from resnet_jax.config import TrainConfig
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.progress import Progress
from resnet_jax.runtime import console
from resnet_jax.runtime.dispatch import Pace
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

    def __init__(self, config: TrainConfig, folder: RunFolder, total_steps: int, steps_per_epoch: int):
        self._config, self._folder, self._total_steps, self._steps_per_epoch = config, folder, total_steps, steps_per_epoch
        self.pace = Pace()
        self.bar = console.ProgressBar(total_steps, config.model)
        self.progress = Progress()
        self._started = time.monotonic()
        self._evaluation_seconds = 0.0
        self._status = ''
        selects = f' (of the hardest {100 * config.selected_fraction:g} % of each batch)'
        self._selects = selects if config.proxy_model else ''  # the examples that the training loss and accuracy are for
        self._since: list[dict[str, float]] = []  # metrics of the steps since the last evaluation

    def resume(self, progress: Progress) -> None:
        """Continues the log from a checkpoint; the elapsed time never decreases, not even after a rollback."""
        self.progress, self._started = progress, min(self._started, time.monotonic() - progress.seconds)
        self._since.clear()

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, including earlier starts."""
        return time.monotonic() - self._started

    def compiled(self, step: int, seconds: float) -> None:
        """Logs that the first step starts after `seconds` of compiling."""
        logger.info(
            'Iteration %d starts %.1f s after the process; compiling it, or reading it compiled, took %.1f s.',
            step,
            console.seconds_since_start(),
            seconds,
        )

    def step(self, step: int, metrics: dict[str, float], learning_rate: float, norms: Mapping[str, float] | None) -> None:
        """Records the metrics of a step; writes a row of their means every `log_every` steps and after the last step.

        Args:
          norms: the gradient norm of every layer's kernel.
        """
        pending = self.progress.pending
        pending.append(metrics)
        self._since.append(metrics)
        due = step % self._config.log_every == 0 or step == self._total_steps
        if norms is not None and (due or step == 1):
            self.row('gradients', step, {'norms': dict(norms)})
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
            self._total_steps,
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
        """Writes the metrics of an evaluation that took `seconds`; logs them with the training since the last evaluation."""
        self._evaluation_seconds = seconds
        self.bar.update(step, self._status)  # replaces the progress of the evaluation
        self.row(split, step, metrics)
        train = ''
        if self._since:  # empty if only the evaluation was left
            loss, accuracy = (float(np.mean([row[name] for row in self._since])) for name in ('loss', 'accuracy'))
            train = f'train loss {loss:.4f}, accuracy {100 * accuracy:.2f} %{self._selects}; '
        self._since.clear()
        logger.info(
            'Epoch %.4g: %s%s loss %.4f, accuracy %.2f %%%s%s',
            step / self._steps_per_epoch,
            train,
            split,
            metrics['loss'],
            100 * metrics['accuracy'],
            f'; with averaged parameters {100 * metrics["ema_accuracy"]:.2f} %' if 'ema_accuracy' in metrics else '',
            _averaged(self._config.tta),
        )

    def row(self, split: str, step: int, values: Json, **timing: float) -> None:
        """Writes a row to metrics.jsonl and its timing to timing.jsonl."""
        row = {'step': step, 'epoch': step / self._steps_per_epoch, 'split': split, **values}
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
        steps = self._total_steps - step
        every = self._config.eval_every_steps or self._steps_per_epoch * self._config.eval_every_epochs
        return steps * self.pace.per_step + steps / every * self._evaluation_seconds
