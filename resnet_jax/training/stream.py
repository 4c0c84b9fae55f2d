"""Streams training images that do not fit on the devices: sends the images of the next steps while the devices train."""

import math

import jax
import numpy as np

from resnet_jax.data.order import StepImages
from resnet_jax.data.workers import WorkerSteps
from resnet_jax.runtime.devices import DeviceData, replicate
from resnet_jax.runtime.prefetch import CHUNK_BYTES, Prefetch


class ImageStream:
    """Provides a run's images in chunks of consecutive steps.

    A chunk depends only on epoch and step, so a run that was killed continues with exactly the next batch.

    Args:
      images: the images of each step, for the positions in the global batch that this process needs.
      workers: number of processes that read the images; 0 to read them in this process.

    Raises:
      ConfigError, ResourceError: see `WorkerSteps`.
    """

    def __init__(self, images: StepImages, workers: int = 0):
        self._images = images
        self._workers = WorkerSteps(images, workers) if workers else None
        self._shape = images.images.shape[1:]
        self.steps = max(1, min(images.steps_per_epoch, CHUNK_BYTES // (images.batch_size * math.prod(self._shape))))
        self._chunks = Prefetch(self._load)
        self._closed = False

    def at(self, epoch: int, step: int) -> tuple[DeviceData, int]:
        """Returns the chunk that contains a step, in the form that `train_steps` takes, and the first step after the chunk.

        Raises:
          InputFileError, ResourceError: an image cannot be read, or a process that reads images was killed.
        """
        chunk = step // self.steps
        end = min((chunk + 1) * self.steps, self._images.steps_per_epoch)
        following = (epoch + 1, 0) if end == self._images.steps_per_epoch else (epoch, chunk + 1)
        last = following == (self._images.num_epochs, 0)
        return self._as_data(self._chunks.get((epoch, chunk), None if last else following), chunk * self.steps), end

    def begin(self, epoch: int, step: int) -> None:
        """Starts reading the chunk that contains a step."""
        if epoch < self._images.num_epochs:
            self._chunks.begin((epoch, step // self.steps))

    def empty(self) -> DeviceData:
        """Returns a chunk of black images, for compilation."""
        return self._as_data(replicate(self._blank()), 0)

    def close(self) -> None:
        """Ends the threads and processes that read."""
        self._closed = True
        self._chunks.close()
        if self._workers:
            self._workers.close()

    def _as_data(self, images: jax.Array | np.ndarray, first: int) -> DeviceData:
        return {'image': images, 'first_step': np.int32(first)}

    def _blank(self) -> np.ndarray:
        return np.zeros((self.steps * self._images.batch_size, *self._shape), np.uint8)

    def _load(self, key: tuple[int, int]) -> np.ndarray:
        epoch, chunk = key
        images = self._blank()
        steps = images.reshape(self.steps, self._images.batch_size, *self._shape)
        per_epoch = self._images.steps_per_epoch
        for place in range(min(self.steps, per_epoch - chunk * self.steps)):
            if self._closed:
                break
            steps[place, self._images.positions] = (self._workers or self._images)[
                epoch * per_epoch + chunk * self.steps + place
            ]
        return replicate(images)
