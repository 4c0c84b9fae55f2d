"""Makes the next value in a thread while the current value is used."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

CHUNK_BYTES = 128 * 2**20  # size of a chunk of images; a device holds two chunks

Key = TypeVar('Key', bound=Hashable)
Value = TypeVar('Value')


class Prefetch(Generic[Key, Value]):
    """Calls `make` in a thread for the next key; keeps the values of at most two keys."""

    def __init__(self, make: Callable[[Key], Value]):
        self._make, self._pool = make, ThreadPoolExecutor(1, thread_name_prefix='prefetch')
        self._made: dict[Key, Future[Value]] = {}

    def get(self, key: Key, following: Key | None = None) -> Value:
        """Returns `make(key)` and starts `make(following)`; a call that has been started is not started again."""
        self.begin(*(each for each in (key, following) if each is not None))
        return self._made[key].result()

    def begin(self, *keys: Key) -> None:
        """Starts making the values of one or two keys; discards all other values."""
        for key in keys:
            if key not in self._made:
                self._made[key] = self._pool.submit(self._make, key)
        self._made = {key: self._made[key] for key in keys}

    def close(self) -> None:
        """Waits for running work and discards its results."""
        self._pool.shutdown(cancel_futures=True)
        self._made = {}
