"""A function of batches, compiled for a few batch sizes before the first request."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

BatchFn = Callable[..., np.ndarray]

_CALLS, _SECONDS = 20, 0.3  # largest number of calls and seconds to measure a batch size


def seconds_of(function: BatchFn, arguments: Sequence[np.ndarray]) -> float:
    """Returns the seconds of a call: the least of several calls, because other work on the machine only adds to it."""
    function(*arguments)  # the first call allocates
    taken: list[float] = []
    while not taken or (len(taken) < _CALLS and sum(taken) < _SECONDS):
        before = time.monotonic()
        function(*arguments)
        taken.append(time.monotonic() - before)
    return min(taken)


class Program:
    """A function of batches of a few sizes; nothing is compiled for other sizes.

    Attributes:
      seconds: {batch size: seconds per batch}, measured when the program was made.
    """

    def __init__(self, functions: Mapping[int, BatchFn], sample: Callable[[int], Sequence[np.ndarray]]):
        """Measures the time of a batch of each size.

        Args:
          functions: for each batch size, a function from arrays `[size, ...]` to an array `[size, ...]`.
          sample: function from a batch size to arguments of this size.
        """
        self._functions = dict(functions)
        self.seconds: dict[int, float] = {}
        for size, function in functions.items():
            self.seconds[size] = seconds_of(function, sample(size))

    @property
    def largest(self) -> int:
        """The largest batch size."""
        return max(self._functions)

    def best_size(self, waiting: int) -> int:
        """Returns the batch size that answers most of `waiting` items per second; it may be larger than their number."""
        return max(self._functions, key=lambda size: min(size, waiting) / self.seconds[size])

    def __call__(self, items: Sequence[Iterable[np.ndarray | np.int32]]) -> list[np.ndarray]:
        """Returns the result of each item, a tuple of arguments without the batch axis; at most `largest` items.

        Raises:
          FloatingPointError: a result is not finite.
        """
        count = len(items)
        size = min(each for each in self._functions if each >= count)
        columns = [np.stack(column) for column in zip(*items, strict=True)]
        padded = [np.pad(column, [(0, size - count)] + [(0, 0)] * (column.ndim - 1)) for column in columns]
        results = self._functions[size](*padded)[:count]
        if not np.isfinite(results).all():
            raise FloatingPointError('the network answers with numbers that are not finite')
        return list(results)
