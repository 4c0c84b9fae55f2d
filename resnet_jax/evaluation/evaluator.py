"""Exact evaluation: every example of a split counts once, whatever the batch size and the number of devices."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import Dataset, Split, load_dataset
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.metrics import summarize
from resnet_jax.evaluation.run import TrainedRun
from resnet_jax.evaluation.step import parallel_eval_steps
from resnet_jax.runtime.devices import compile_parallel, device_positions, replicate
from resnet_jax.runtime.dispatch import Pace

logger = logging.getLogger(__name__)


class Evaluator:
    """Evaluates a network on a split that stays on the devices; compiles once.

    Args:
      mean, std: of the channels.
      dtype: of the images that the network is given.
      batch_size: over all devices.
      tta: what the logits are averaged over, see `data.augment.tta_logits`.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: Any,
        batch_size: int,
        num_classes: int,
        tta: str = 'none',
    ):
        devices = jax.device_count()
        self._size = len(split.label)
        batch_size = -(-min(batch_size, self._size) // devices) * devices  # the last batch is padded and masked anyway
        self.batch_size, self.batches = batch_size, -(-self._size // batch_size)
        self._positions = device_positions(batch_size)
        self._data = replicate({'image': split.image, 'label': split.label})
        self._run = parallel_eval_steps(model, mean, std, dtype, batch_size, num_classes, tta)
        self._compiled: Callable | None = None

    def compile(self, variables: Any) -> Any:
        """Compiles, once, for replicated variables like these; returns what `step.compile_parallel` does."""
        if self._compiled is None:
            arguments = (variables, self._positions, self._data, np.int32(0), np.int32(0))
            self._compiled = compile_parallel(self._run, *arguments)
        return self._compiled

    def sums(self, variables: Any, start: int, count: int) -> dict[str, np.ndarray]:
        """Returns `step.eval_steps` of batches `start` to `start + count`, for replicated variables, from the device."""
        run = self.compile(variables)
        return jax.device_get(run(variables, self._positions, self._data, np.int32(start), np.int32(count)))

    def __call__(self, variables: Any, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Returns `metrics.summarize` of the whole split, with 'confusion' `[num_classes, num_classes]` beside it.

        Args:
          variables: 'params' and 'batch_stats', replicated or not.
          progress: is called with (batches done, batches).
        """
        variables = replicate(variables)
        self.compile(variables)
        losses, confusion, done, pace = np.zeros(self.batches), np.zeros((), np.int64), 0, Pace()
        while done < self.batches:
            count, before = pace.size(self.batches - done), time.monotonic()
            sums = self.sums(variables, done, count)
            pace.measured(count, time.monotonic() - before)
            losses, confusion, done = losses + sums['loss'], confusion + sums['confusion'], done + count
            if progress:
                progress(done, self.batches)
        metrics = summarize(losses.sum(), confusion)
        assert metrics['count'] == self._size, f'evaluated {metrics["count"]} of {self._size} examples'
        return {**metrics, 'confusion': confusion}


def evaluate_run(run: TrainedRun, data_dir: str | None = None, tta: str | None = None) -> dict[str, Any]:
    """Evaluates a trained run on its data set's test split.

    Args:
      data_dir: where the data set is now, if not where the run's config says.
      tta: see `data.augment.tta_logits`; None: as the run's config says.

    Returns:
      See `evaluate_network`.

    Raises:
      InputFileError: the data set cannot be had.
    """
    config = run.config
    dataset = load_dataset(config['dataset'], data_dir or config['data_dir'] or None, config['data_archive'] or None)
    if dataset.fingerprint != run.dataset['fingerprint']:
        logger.warning('The data are not those that the run was trained on: other files of %s.', dataset.name)
    return evaluate_network(
        run.model,
        run.variables,
        dataset,
        mean=run.dataset['mean'],
        std=run.dataset['std'],
        dtype=jnp.dtype(config['dtype']),
        batch_size=config['eval_batch_size'],
        tta=tta or run.tta,
    )


def evaluate_network(
    model: nn.Module,
    variables: Any,
    dataset: Dataset,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any = jnp.float32,
    batch_size: int = 1000,
    tta: str = 'none',
) -> dict[str, Any]:
    """Evaluates a network, trained here or elsewhere, on a data set's test split.

    Args:
      variables: 'params' and 'batch_stats'.
      mean, std: of the channels, as the network was trained with; one for all or one for each.
      tta: see `data.augment.tta_logits`.

    Returns:
      See `Evaluator`, and 'tta'.

    Raises:
      ConfigError: the network has another number of classes, or the data set another number of channels.
    """
    check_network_fits(model, dataset, mean, std)
    evaluator = Evaluator(
        model,
        dataset.test,
        mean=mean,
        std=std,
        dtype=dtype,
        batch_size=batch_size,
        num_classes=dataset.num_classes,
        tta=tta,
    )
    return {**evaluator(variables), 'tta': tta}


def check_network_fits(model: nn.Module, dataset: Dataset, mean: Sequence[float], std: Sequence[float]) -> None:
    """Checks that a network can be evaluated on a data set.

    Raises:
      ConfigError: the network has another number of classes, or the data set another number of channels.
    """
    if model.num_classes != dataset.num_classes:
        raise ConfigError(
            f'the network has {model.num_classes} classes and {dataset.name} has {dataset.num_classes}; '
            'expected as many: choose the data set that it was trained on'
        )
    channels = dataset.image_shape[-1]
    if not {len(mean), len(std)} <= {1, channels}:
        raise ConfigError(f'mean {list(mean)} and std {list(std)} are not for the {channels} channels of {dataset.name}')
