"""Exact evaluation: every example of a split counts once, whatever the batch size and the number of devices."""

import math
import time
from collections.abc import Callable

import jax
import numpy as np

from resnet_jax.data import Split
from resnet_jax.evaluation.metrics import summarize
from resnet_jax.evaluation.step import LogitsFn, parallel_eval_steps
from resnet_jax.runtime.devices import DeviceData, compile_parallel, device_positions, replicate
from resnet_jax.runtime.dispatch import Pace
from resnet_jax.runtime.memory import fits_on_devices
from resnet_jax.runtime.prefetch import CHUNK_BYTES, Prefetch
from resnet_jax.typing import JsonDict, Variables


class Evaluator:
    """Evaluates a network on a split; compiles once.

    The split stays on the devices; if it does not fit, it is sent there in chunks.

    Args:
      logits_fn: function from variables and uint8 images to logits: see `Classifier.logits_fn`.
      batch_size: global batch size, over all devices.
      device_data_gib: the largest size that stays on the devices: see `memory.fits_on_devices`.
    """

    def __init__(self, logits_fn: LogitsFn, split: Split, *, batch_size: int, num_classes: int, device_data_gib: float = 0.0):
        devices = jax.device_count()
        self._size = len(split.label)
        batch_size = -(-min(batch_size, self._size) // devices) * devices  # the last batch is padded and masked
        self.batch_size, self.batches = batch_size, -(-self._size // batch_size)
        self._positions = device_positions(batch_size)
        self._split, self._chunk = split, self.batches  # number of batches in a chunk
        if not fits_on_devices(split.image.nbytes, device_data_gib):
            batch_bytes = batch_size * math.prod(split.image.shape[1:])
            self._chunk = max(1, min(self.batches, CHUNK_BYTES // batch_bytes))
        self._chunks = Prefetch(self._load)
        self._run = parallel_eval_steps(logits_fn, batch_size, num_classes)
        self._compiled: jax.stages.Compiled | jax.stages.Wrapped | None = None

    def compile(self, variables: Variables) -> jax.stages.Compiled | jax.stages.Wrapped:
        """Compiles once, for replicated variables like `variables`; returns the result of `devices.compile_parallel`."""
        if self._compiled is None:
            data = self._chunks.get(0)
            arguments = (variables, self._positions, data, np.int32(0), np.int32(0))
            self._compiled = compile_parallel(self._run, *arguments)
        return self._compiled

    def sums(self, variables: Variables, start: int, count: int) -> dict[str, np.ndarray]:
        """Returns the 'loss' of each batch from `start` to `start + count`, and the 'confusion' of all of them.

        Args:
          variables: replicated.
          start, count: batches of one chunk.
        """
        run, (chunk, within) = self.compile(variables), divmod(start, self._chunk)
        following = (chunk + 1) % -(-self.batches // self._chunk)
        data = self._chunks.get(chunk, following)
        sums = jax.device_get(run(variables, self._positions, data, np.int32(within), np.int32(count)))
        return {'loss': sums['loss'][within : within + count], 'confusion': sums['confusion']}

    def _load(self, chunk: int) -> DeviceData:
        """Returns a chunk on the devices, with the same shape as all other chunks, and the number of its examples."""
        size, first = min(self._chunk * self.batch_size, self._size), chunk * self._chunk * self.batch_size
        image, label = self._split.image[first : first + size], self._split.label[first : first + size]
        count = len(label)
        if count < size:
            image = np.pad(image, [(0, size - count), (0, 0), (0, 0), (0, 0)])
            label = np.pad(label, (0, size - count))
        return replicate({'image': image, 'label': label, 'count': np.int32(count)})

    def close(self) -> None:
        """Ends the thread that loads chunks."""
        self._chunks.close()

    def __call__(self, variables: Variables, progress: Callable[[int, int], None] | None = None) -> JsonDict:
        """Returns `metrics.summarize` of the whole split, and 'confusion' `[num_classes, num_classes]`.

        Args:
          variables: 'params' and 'batch_stats', replicated or not.
          progress: called with (number of finished batches, number of batches).
        """
        variables = replicate(variables)
        self.compile(variables)
        losses, confusion, done, pace = np.zeros(self.batches), np.zeros((), np.int64), 0, Pace()
        while done < self.batches:
            left = min(self._chunk - done % self._chunk, self.batches - done)
            count, before = pace.size(left), time.monotonic()
            sums = self.sums(variables, done, count)
            pace.measured(count, time.monotonic() - before)
            losses[done : done + count] = sums['loss']
            confusion, done = confusion + sums['confusion'], done + count
            if progress:
                progress(done, self.batches)
        metrics = summarize(losses.sum(), confusion)
        assert metrics['count'] == self._size, f'evaluated {metrics["count"]} of {self._size} examples'
        return {**metrics, 'confusion': confusion}
