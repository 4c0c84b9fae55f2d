"""Makes what is needed next while something else runs."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

CHUNK_BYTES = 128 * 2**20  # of images that are sent to a device at once; two chunks are there at a time

Key = TypeVar('Key', bound=Hashable)
Value = TypeVar('Value')


class Prefetch(Generic[Key, Value]):
    """Calls `make` in a thread for the key that comes next; keeps the values of two keys at most."""

    def __init__(self, make: Callable[[Key], Value]):
        self._make, self._pool = make, ThreadPoolExecutor(1, thread_name_prefix='prefetch')
        self._made: dict[Key, Future[Value]] = {}

    def get(self, key: Key, following: Key | None = None) -> Value:
        """Returns `make(key)`, and begins with `make(following)`, unless they are made already."""
        wanted = [each for each in (key, following) if each is not None]
        for each in wanted:
            if each not in self._made:
                self._made[each] = self._pool.submit(self._make, each)
        self._made = {each: self._made[each] for each in wanted}
        return self._made[key].result()
