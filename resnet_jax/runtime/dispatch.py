"""How many steps one dispatch takes, from the time that they take."""

import jax

from resnet_jax.runtime.distributed import broadcast


class Pace:
    """Measures the time per step, to choose how many steps one dispatch takes and to say how long the rest takes.

    A dispatch is given about `seconds` of work: long enough to hide Python, short enough that the bar moves and an interrupt
    is heard.
    """

    def __init__(self, seconds: float = 0.5):
        self._seconds = seconds
        self.per_step = 0.0  # seconds; 0 before the first dispatch
        self._compiles = jax.process_count() > 1  # the first dispatch: see step.compile_parallel

    def size(self, remaining: int) -> int:
        """Returns how many steps to dispatch now."""
        return broadcast(1 if not self.per_step else max(1, min(remaining, int(self._seconds / self.per_step))))

    def measured(self, steps: int, seconds: float) -> None:
        """Takes note of a dispatch; recent ones count most, and one that took less than half the time per step alone.

        So what only the first dispatch has to do, which takes a GPU a second, is forgotten with the second dispatch.
        """
        if self._compiles:
            self._compiles = False
            return
        new = max(seconds / steps, 1e-9)
        self.per_step = new if not self.per_step or new < self.per_step / 2 else 0.8 * self.per_step + 0.2 * new
