"""Exact mean and standard deviation of the pixels of many images, in one pass."""

import numpy as np


class ChannelHistogram:
    """Counts the 256 values of each channel; mean and std are per channel, of values scaled to [0, 1]."""

    def __init__(self) -> None:
        self._counts: list[np.ndarray] = []

    def add(self, image: np.ndarray) -> None:
        """Counts images, uint8 `[n, height, width, channels]`."""
        for start in range(0, len(image), _BLOCK):
            block = image[start : start + _BLOCK]
            counts = [np.bincount(block[..., channel].ravel(), minlength=256) for channel in range(image.shape[-1])]
            self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)] if self._counts else counts

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel."""
        return tuple(float(counts @ _VALUES / counts.sum()) for counts in self._counts)

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel; 1 if the channel has only one value, because images are divided by it."""
        deviations = [counts @ (_VALUES - counts @ _VALUES / counts.sum()) ** 2 / counts.sum() for counts in self._counts]
        return tuple(float(np.sqrt(variance)) or 1.0 for variance in deviations)


# Images per call of `bincount`, which makes a copy with eight bytes for each value.
_BLOCK = 64

_VALUES = np.arange(256) / 255
