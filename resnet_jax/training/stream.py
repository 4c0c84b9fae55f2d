"""Training images that do not fit on the devices: each device gets those of the next steps while it trains."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_jax.runtime.devices import replicate
from resnet_jax.runtime.prefetch import CHUNK_BYTES, Prefetch


class ImageStream:
    """The images of an epoch's steps in chunks of as many steps, in the order of the epoch.

    What a chunk holds depends on epoch and step alone, so a run that was killed continues with exactly the next batch.

    Args:
      images: uint8 `[n, height, width, channels]`, on the host.
      order_of: returns the order of an epoch, int32 `[steps_per_epoch, batch_size]`.
      positions: int32: the positions in the global batch whose images this process needs.
    """

    def __init__(
        self,
        images: np.ndarray,
        order_of: Callable[[int], np.ndarray],
        steps_per_epoch: int,
        batch_size: int,
        positions: np.ndarray,
    ):
        self._images, self._order_of = images, functools.lru_cache(maxsize=2)(order_of)
        self._steps_per_epoch, self._batch_size, self._positions = steps_per_epoch, batch_size, positions
        batch_bytes = batch_size * math.prod(images.shape[1:])
        self.steps = max(1, min(steps_per_epoch, CHUNK_BYTES // batch_bytes))
        self._chunks = Prefetch(self._load)

    def at(self, epoch: int, step: int) -> tuple[dict[str, Any], int]:
        """Returns the chunk with a step of an epoch, as `train_steps` takes it, and the first step after the chunk."""
        chunk = step // self.steps
        end = min((chunk + 1) * self.steps, self._steps_per_epoch)
        following = (epoch + 1, 0) if end == self._steps_per_epoch else (epoch, chunk + 1)
        return self._as_data(self._chunks.get((epoch, chunk), following), chunk * self.steps), end

    def empty(self) -> dict[str, Any]:
        """Returns a chunk of black images, to compile for."""
        return self._as_data(replicate(self._blank()), 0)

    def _as_data(self, images: Any, first: int) -> dict[str, Any]:
        return {'image': images, 'first_step': np.int32(first)}

    def _blank(self) -> np.ndarray:
        return np.zeros((self.steps * self._batch_size, *self._images.shape[1:]), np.uint8)

    def _load(self, key: tuple[int, int]) -> Any:
        epoch, chunk = key
        images = self._blank()
        steps = images.reshape(self.steps, self._batch_size, *images.shape[1:])
        for step, examples in enumerate(self._order_of(epoch)[chunk * self.steps : (chunk + 1) * self.steps]):
            steps[step, self._positions] = self._images[examples[self._positions]]
        return replicate(images)
