"""Decodes the images of a run's steps in worker processes, with Grain."""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.data.order import StepImages
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.errors import ConfigError, ResourceError, UserError

if TYPE_CHECKING:
    from grain import DatasetIterator

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SHARED_MEMORY = Path('/dev/shm')  # where Linux keeps shared memory


def check_grain() -> None:
    """Raises ConfigError unless Grain is installed."""
    try:
        import grain  # noqa: F401
    except ImportError:
        raise ConfigError(
            "decode_workers needs Grain, which is missing: pip install 'resnet_jax[grain]', or decode_workers=0 for threads"
        ) from None


class WorkerSteps:
    """Reads the images of consecutive steps in worker processes, a few steps ahead.

    The worker processes end with this process, even if it is killed. They ignore signals, which this process handles.

    Args:
      steps: the steps; their images must be `EncodedImages`.
      workers: number of processes, at least 1.

    Raises:
      ConfigError: Grain is not installed.
      ResourceError: there is too little shared memory.
    """

    def __init__(self, steps: StepImages, workers: int):
        check_grain()
        if isinstance(steps.images, ImagesOnDemand):
            steps = dataclasses.replace(steps, images=steps.images.in_one_thread())
        self._steps, self._workers = steps, workers
        self._iterators: list[
            DatasetIterator[np.ndarray]
        ] = []  # iterate over the steps of each worker; steps go to the workers in turn
        self._first: list[np.ndarray | None] = []  # the images of each worker's first step
        self._start, self._next = -1, -1
        size = len(steps.positions) * steps.images.nbytes // len(steps.images)
        _check_shared_memory(size * (4 * workers + 1), workers)  # Grain holds up to 4 steps for each worker

    def __getitem__(self, step: int) -> np.ndarray:
        """Returns the images of a step, uint8 `[k, height, width, channels]`; fast if the step follows the last one.

        Raises:
          InputFileError: an image cannot be read.
          ResourceError: a worker was killed.
        """
        try:
            images = self._take(step)
        except UserError as error:
            failed = type(error)(str(error))
        except RuntimeError as error:
            if 'terminated unexpectedly' not in str(error):
                raise
            failed = ResourceError(
                f'a process that decodes images was killed (decode_workers={self._workers}): out of memory? expected fewer '
                'of them, or a smaller batch_size'
            )
        else:
            self._next = step + 1
            return np.asarray(images)
        raise failed  # without Grain's frames, which would keep shared memory until the process ends

    def _take(self, step: int) -> np.ndarray:
        if step != self._next or not self._iterators:
            self.close()
            self._begin(step)
        worker = (step - self._start) % self._workers
        images, self._first[worker] = self._first[worker], None
        return next(self._iterators[worker]) if images is None else images

    def _begin(self, step: int) -> None:
        """Starts the processes at the same time, because each takes seconds."""
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # outside our commands; Grain reads flags
            flags.FLAGS.mark_as_parsed()
        self._start = step
        # Not one dataset for all workers: its iterator would end them one after the other.
        for worker in range(self._workers):
            steps = grain.MapDataset.source(self._steps)[step + worker :: self._workers]
            read = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            options = grain.MultiprocessingOptions(num_workers=1)
            self._iterators.append(iter(read.mp_prefetch(options, worker_init_fn=_begin_worker)))
        with _blocked_signals(), ThreadPoolExecutor(self._workers) as pool:
            self._first = list(pool.map(lambda iterator: next(iterator, None), self._iterators))

    def close(self) -> None:
        """Ends the processes."""
        iterators, self._iterators, self._first = self._iterators, [], []
        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(lambda iterator: iterator.close(), iterators))
        if iterators:
            del iterators
            gc.collect()  # frees shared memory of Grain's objects, which have reference cycles


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Blocks signals in this thread, and thereby in the processes that it starts, from their first instruction on.

    The terminal sends Ctrl-C to all processes, and a cluster sends SIGTERM, but the run needs images until its state is saved.
    """
    resource_tracker.ensure_running()  # a process of `multiprocessing`; starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(index: int, count: int) -> None:
    """Makes a worker end with its parent, even if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _check_shared_memory(size: int, workers: int) -> None:
    if (
        _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < size
    ):  # a write beyond the free memory raises SIGBUS
        free = shutil.disk_usage(_SHARED_MEMORY).free
        raise ResourceError(
            f'{workers} processes that decode need {size / 2**20:.0f} MiB in {_SHARED_MEMORY} and {free / 2**20:.0f} are free; '
            'expected more (docker run --shm-size), fewer decode_workers, or 0 for threads'
        )
