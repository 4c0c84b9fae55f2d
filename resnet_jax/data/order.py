"""The order of the examples of an epoch, and the images of each step of a run."""

import dataclasses
import functools

import numpy as np

from resnet_jax.data.split import Images, ImagesOnDemand


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """Returns the example indices of each batch of an epoch, int32 `[steps_per_epoch, batch_size]`.

    The indices depend only on the arguments. Uses raw Philox integers and a stable sort, because NumPy's permutations may
    change between versions.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    order = np.argsort(keys, kind='stable').astype(np.int32)
    steps = examples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


_recent_order = functools.lru_cache(maxsize=2)(epoch_order)


@dataclasses.dataclass(frozen=True, repr=False)
class StepImages:
    """The training images of each step of a run: a pure function of the seed and the step, counted from the run's start.

    Attributes:
      images: the training images.
      positions: int32 `[k]`: the positions in the global batch whose images are needed.
      crop_area: smallest share of a random resized crop of images on demand; 0 for none.
    """

    images: Images
    seed: int
    num_epochs: int
    batch_size: int
    positions: np.ndarray
    crop_area: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in an epoch; the remaining images are in no batch."""
        return len(self.images) // self.batch_size

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> np.ndarray:
        """Returns the images of a step, uint8 `[k, height, width, channels]`.

        Raises:
          InputFileError: an image on demand cannot be read.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        order = _recent_order(self.seed, epoch, len(self.images), self.batch_size)
        examples = order[within, self.positions]
        if self.crop_area and isinstance(self.images, ImagesOnDemand):
            return self.images.crops(examples, self.seed, step, self.positions, self.crop_area)
        return self.images[examples]
