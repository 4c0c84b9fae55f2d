"""Times the decoding of pictures for training, compared with PyTorch's DataLoader: random resized crops at 224 pixels."""

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

import numpy as np

from resnet_jax.benchmark.measure import Effort, summary
from resnet_jax.benchmark.worker import Worker
from resnet_jax.data import LoadOptions, find_dataset
from resnet_jax.data.on_demand import cores
from resnet_jax.data.order import StepImages
from resnet_jax.data.workers import WorkerSteps
from resnet_jax.typing import JsonDict, Row

SIZE, AREA = 224, 0.08
_OURS = ('threads', 'workers')
_PEERS = ('float', 'uint8')


def seconds_for(batches: Iterator[object], warm_up: int, count: int) -> float:
    """Returns the seconds between the arrivals of two batches `count` apart.

    Args:
      warm_up: number of batches up to the first of the two; at least as many as can be ready in advance, so that later batches
        arrive as they are made.
    """
    before = 0.0
    for number, _ in enumerate(batches):
        if number == warm_up - 1:
            before = time.monotonic()
        if number == warm_up + count - 1:
            return time.monotonic() - before
    raise AssertionError('too few batches')


class Decoding:
    """Our side of the decoding benchmark: threads of one process, or worker processes."""

    def __init__(self, dataset: str, batch_size: int, workers: int):
        options = LoadOptions(decode='always', image_size=SIZE, normalization='imagenet')
        train = find_dataset(dataset, options).dataset.train
        positions = np.arange(batch_size, dtype=np.int32)
        self._steps = StepImages(train.image, 0, 10_000, batch_size, positions, crop_area=AREA)
        self._workers = workers

    def describe(self) -> JsonDict:
        """Returns the number of pictures, versions, and the number of cores."""
        versions = {name: metadata.version(name) for name in ('grain', 'pillow', 'numpy')}
        return {'pictures': len(self._steps.images), 'versions': versions, 'cores': cores()}

    def run(self, *, variant: str, batches: int) -> float:
        """Returns the seconds for `batches` batches."""
        if variant == 'threads':
            return seconds_for(map(self._steps.__getitem__, itertools.count()), 1, batches)
        read = WorkerSteps(self._steps, self._workers)
        try:
            return seconds_for(map(read.__getitem__, itertools.count()), 4 * self._workers, batches)
        finally:
            read.close()

    def peak_bytes(self) -> int:
        """Returns the largest resident memory so far: of this process, and of the largest of its workers."""
        return peak_bytes()


def peak_bytes() -> int:
    """Returns the largest resident memory so far: of this process, and of the largest of its workers that have ended."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def measure_decoding(
    dataset: str,
    batch_size: int,
    effort: Effort,
    *,
    peer: bool,
    workers: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Row:
    """Measures images/s of each side and variant, in turns.

    Args:
      dataset: a name such as 'folder:PATH'.
      workers: number of our processes, the peer's processes, and our threads; 0 for one per core.

    Returns:
      'images_per_second', a list for each variant, in the order of the rounds; 'summary' of each; with a peer 'ratio', of our
      faster variant to the peer's faster variant in each round; 'peak_bytes' of both sides; the facts of both sides.

    Raises:
      UserError: the pictures cannot be read, or Grain or PyTorch is missing.
    """
    workers = workers or cores()
    arguments = {'dataset': dataset, 'batch_size': batch_size, 'workers': workers}
    with Worker('decoding', {}, **arguments) as ours:
        sides = dict.fromkeys(_OURS, ours)
        row: Row = {**arguments, 'image_size': SIZE, 'ours': ours('describe')}
        if not peer:
            return _measure(row, sides, effort, progress)
        with Worker('torch_decoding', {}, **arguments) as torch:
            row['torch'] = torch('describe')
            return _measure(row, {**sides, **dict.fromkeys(_PEERS, torch)}, effort, progress)


def _measure(row: Row, sides: dict[str, Worker], effort: Effort, progress: Callable[[str], None]) -> Row:
    size, counts = row['batch_size'], {}
    for variant, side in sides.items():  # the first run is not counted: it fills the file cache
        seconds = side('run', variant=variant, batches=4)
        counts[variant] = max(4, round(effort.seconds * 4 / seconds))
        progress(f'{variant}: about {4 * size / seconds:.0f} images/s')
    rates: dict[str, list[float]] = {variant: [] for variant in sides}
    for _ in range(effort.rounds):
        for variant, side in sides.items():
            rates[variant].append(counts[variant] * size / side('run', variant=variant, batches=counts[variant]))
    row.update(images_per_second=rates, summary={variant: summary(values) for variant, values in rates.items()})
    row['peak_bytes'] = {side.side: side('peak_bytes') for side in dict.fromkeys(sides.values())}
    if _PEERS[0] in sides:
        best, theirs = (max(names, key=lambda name: row['summary'][name]['median']) for names in (_OURS, _PEERS))
        ratios = [a / b for a, b in zip(rates[best], rates[theirs], strict=True)]
        row['ratio'] = {'ours': best, 'torch': theirs, **summary(ratios)}
    return row


_SHOWN = {
    'threads': 'resnet_jax, threads of one process',
    'workers': 'resnet_jax, worker processes of Grain',
    'float': 'DataLoader, float32 as of ToTensor',
    'uint8': 'DataLoader, uint8 as of PILToTensor',
}


def table(row: Row) -> str:
    """Returns the rates as a Markdown table."""
    facts = row['ours']
    versions = {**facts['versions'], **({'torch': row['torch']['torch']} if 'torch' in row else {})}
    lines = [
        f'Decoding and random resized crop at {SIZE} x {SIZE}, batches of {row["batch_size"]}, {row["workers"]} workers, '
        f'{facts["cores"]} cores, {facts["pictures"]:,} pictures; '
        + ', '.join(f'{name} {version}' for name, version in versions.items()),
        '',
        '| side | images/s | lowest-highest | rounds |',
        '|---|---|---|---|',
    ]
    for variant, each in row['summary'].items():
        lines.append(f'| {_SHOWN[variant]} | {each["median"]:.0f} | {each["low"]:.0f}-{each["high"]:.0f} | {each["n"]} |')
    memory = ', '.join(f'{side} {size / 2**20:.0f} MiB' for side, size in row['peak_bytes'].items())
    lines += ['', f'peak memory of the process and of its largest worker: {memory}']
    if 'ratio' in row:
        ratio = row['ratio']
        lines.append(
            f'ratio {ratio["median"]:.2f} ({ratio["low"]:.2f}-{ratio["high"]:.2f}), '
            f'{_SHOWN[ratio["ours"]]} to {_SHOWN[ratio["torch"]]}'
        )
    return '\n'.join(lines)


def parse_pictures(text: str, sizes: Sequence[int]) -> tuple[str, int]:
    """Returns the name of the data set, and the batch size, by default 64."""
    return (text if ':' in text else f'folder:{text}'), (sizes[0] if sizes else 64)
