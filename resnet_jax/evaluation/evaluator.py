"""Exact evaluation: every example of a split counts once, whatever the batch size and the number of devices."""

import time
from collections.abc import Callable

import jax
import numpy as np

from resnet_jax.data import Split
from resnet_jax.evaluation.metrics import summarize
from resnet_jax.evaluation.step import LogitsFn, parallel_eval_steps
from resnet_jax.runtime.devices import compile_parallel, device_positions, replicate
from resnet_jax.runtime.dispatch import Pace
from resnet_jax.typing import JsonDict, Variables


class Evaluator:
    """Evaluates a network on a split that stays on the devices; compiles once.

    Args:
      logits_fn: function from variables and uint8 images to logits: see `Classifier.logits_fn`.
      batch_size: global batch size, over all devices.
    """

    def __init__(self, logits_fn: LogitsFn, split: Split, *, batch_size: int, num_classes: int):
        devices = jax.device_count()
        self._size = len(split.label)
        batch_size = -(-min(batch_size, self._size) // devices) * devices  # the last batch is padded and masked anyway
        self.batch_size, self.batches = batch_size, -(-self._size // batch_size)
        self._positions = device_positions(batch_size)
        self._data = replicate({'image': split.image, 'label': split.label})
        self._run = parallel_eval_steps(logits_fn, batch_size, num_classes)
        self._compiled: jax.stages.Compiled | jax.stages.Wrapped | None = None

    def compile(self, variables: Variables) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Compiles once, for replicated variables like these; returns the result of `devices.compile_parallel`."""
        if self._compiled is None:
            arguments = (variables, self._positions, self._data, np.int32(0), np.int32(0))
            self._compiled = compile_parallel(self._run, *arguments)
        return self._compiled

    def sums(self, variables: Variables, start: int, count: int) -> dict[str, np.ndarray]:
        """Returns `step.eval_steps` of batches `start` to `start + count` on the host, for replicated variables."""
        run = self.compile(variables)
        sums: dict[str, np.ndarray] = jax.device_get(
            run(variables, self._positions, self._data, np.int32(start), np.int32(count))
        )
        return sums

    def __call__(self, variables: Variables, progress: Callable[[int, int], None] | None = None) -> JsonDict:
        """Returns `metrics.summarize` of the whole split, and 'confusion' `[num_classes, num_classes]`.

        Args:
          variables: 'params' and 'batch_stats', replicated or not.
          progress: called with (batches done, number of batches).
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
