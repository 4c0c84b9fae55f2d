"""RandomResizedCrop on the host, where an image still has all its pixels; for the device see `augment.rectangles`."""

import math
from collections.abc import Iterator

import numpy as np

_RATIO = 3 / 4, 4 / 3  # range of width over height
_ATTEMPTS = 10
# The second half of a Philox key; differs from the epochs and the other streams of a seed.
_STREAM = 2**64 - 3


def resized_crop_box(
    seed: int, step: int, position: int, height: int, width: int, smallest: float
) -> tuple[int, int, int, int]:
    """Returns the rectangle of torchvision's RandomResizedCrop: a pure function of the arguments.

    The rectangle's share of the area is uniform in [smallest, 1], and the logarithm of its width over its height is uniform
    from log(3/4) to log(4/3) (Szegedy et al. 2014, sec. 6). If ten attempts are too high or too wide, returns the largest
    centred rectangle whose width over height is in this range.

    Args:
      step: the step of the run; position: the position in the batch.

    Returns:
      (top, left, height, width) in pixels.
    """
    uniform = _uniform(seed, step, position)
    low, high = map(math.log, _RATIO)
    for _ in range(_ATTEMPTS):
        area = height * width * (smallest + (1 - smallest) * next(uniform))
        ratio = math.exp(low + (high - low) * next(uniform))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = (int(next(uniform) * (spare + 1)) for spare in (height - rows, width - columns))
            return top, left, rows, columns
    rows, columns = height, width
    if width / height < _RATIO[0]:
        rows = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        columns = round(height * _RATIO[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _uniform(seed: int, step: int, position: int) -> Iterator[float]:
    """Yields numbers in [0, 1), from raw integers: the streams of np.random.Generator may change between NumPy versions."""
    key, counter = np.array([seed, _STREAM], np.uint64), np.array([0, 0, position, step], np.uint64)
    bits = np.random.Philox(key=key, counter=counter)
    while True:
        yield from ((bits.random_raw(4) >> np.uint64(11)) * 2.0**-53).tolist()
