"""Chooses the number of steps per dispatch from the measured time per step."""

import jax

from resnet_jax.runtime.distributed import broadcast


class Pace:
    """Measures the time per step, to choose the number of steps per dispatch and to estimate the remaining time.

    A dispatch has about `seconds` of work: long enough to hide the overhead of Python, short enough that the progress bar
    moves and interrupts are noticed.
    """

    def __init__(self, seconds: float = 0.5):
        self._seconds = seconds
        self.per_step = 0.0  # seconds; 0 before the first dispatch
        self._compiles = jax.process_count() > 1  # whether the next dispatch compiles: see devices.compile_parallel

    def size(self, remaining: int) -> int:
        """Returns the number of steps to dispatch now."""
        return broadcast(1 if not self.per_step else max(1, min(remaining, int(self._seconds / self.per_step))))

    def measured(self, steps: int, seconds: float) -> None:
        """Updates the time per step: a moving average, or the new measurement if it is less than half of the average.

        So the second dispatch discards the one-time work of the first dispatch, about a second on a GPU.
        """
        if self._compiles:
            self._compiles = False
            return
        new = max(seconds / steps, 1e-9)
        self.per_step = new if not self.per_step or new < self.per_step / 2 else 0.8 * self.per_step + 0.2 * new
