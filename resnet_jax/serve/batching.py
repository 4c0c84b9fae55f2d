"""Answers the items of many requests in one batch."""

import asyncio
import collections
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from resnet_jax.serve.program import Program

Item = tuple[np.ndarray | np.int32, ...]


class _Waiting(NamedTuple):
    item: Item
    answer: 'asyncio.Future[np.ndarray]'
    since: float


class Batcher:
    """Collects items, and answers the waiting items with one call of a program, one batch after the other.

    While a batch is computed, the items of the next batch arrive. Waiting for more items is useful only if nothing is being
    computed and other items are about to come.
    """

    def __init__(self, program: Program, wait: float, coming: Callable[[], bool], thread: Executor):
        """Like all methods, must be called in an event loop.

        Args:
          wait: largest number of seconds that an item waits for other items.
          coming: returns whether other items are about to come.
          thread: an executor with one thread, which computes; several batchers may share it.
        """
        self._program, self._wait, self._coming, self._thread = program, wait, coming, thread
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._arrived = asyncio.Event()

    async def answer(self, *item: np.ndarray | np.int32) -> np.ndarray:
        """Returns the program's result for an item; raises any error of the program for the item's batch.

        If the caller is cancelled, for example by a timeout, the item is left out of its batch.
        """
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, answer, time.monotonic()))
        self._arrived.set()
        return await answer

    async def work(self) -> None:
        """Answers items until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._collect()
            batch = self._next_batch()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._program, [each.item for each in batch])
            except Exception as error:
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            for each, result in zip(batch, results, strict=True):
                if not each.answer.done():
                    each.answer.set_result(result)

    async def _collect(self) -> None:
        """Waits until there are items, and then for other items that are about to come."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        while len(self._waiting) < self._program.largest and self._coming():
            left = self._waiting[0].since + self._wait - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    def _next_batch(self) -> list[_Waiting]:
        wanted = [each for each in self._waiting if not each.answer.done()]
        size = self._program.best_size(len(wanted)) if wanted else 0
        self._waiting = collections.deque(wanted[size:])
        return wanted[:size]
