"""Decodes and resizes encoded images into arrays of one shape, on all cores, and keeps them in the cache."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from resnet_jax.data import cache
from resnet_jax.data.encoded import EncodedDataset, EncodedSplit
from resnet_jax.data.images import BrokenImageError, image_header, read_image
from resnet_jax.data.on_demand import cores, on_demand
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.split import Dataset, Fingerprint, Split
from resnet_jax.data.statistics import ChannelHistogram
from resnet_jax.errors import InputFileError, one_line
from resnet_jax.runtime.progress import progress
from resnet_jax.typing import JsonDict

logger = logging.getLogger(__name__)

T = TypeVar('T')

LARGEST_OWN_SIZE = 256  # height or width in pixels
_LISTED = 1000  # number of broken images that are listed
_LOGGED = 20  # lines about a data set in the log
_FORMAT = 2  # format of the arrays: increase it when `decode` makes other arrays of the same source
_BLOCK = 256  # number of images that are decoded before the next ones are begun; bounds the memory


def decode(encoded: EncodedDataset, options: LoadOptions) -> Dataset:
    """Returns the data set as arrays of one shape: images with 1 channel if all of them are grey, otherwise 3.

    For `options.decode` 'always' see `on_demand`.

    Raises:
      InputFileError: an image cannot be decoded, unless `options.broken_images` is 'skip' and each class keeps at least one
        image; or a file cannot be read, or changed meanwhile.
    """
    if options.decode == 'always':
        return on_demand(encoded, options)
    size, resize, broken = options.image_size, options.resize, options.broken_images
    key = json.dumps([_FORMAT, encoded.version, encoded.place, size or f'default {options.default_size}', resize, broken])
    splits = {'train': encoded.train, 'test': encoded.test}
    if encoded.validation is not None:
        splits['validation'] = encoded.validation
    name = f'images-{hashlib.sha256(key.encode()).hexdigest()[:32]}'
    done = cache.cached(name, lambda writer: _decode(encoded, splits, options, writer))
    for note in done.facts['notes'][:_LOGGED]:
        logger.info('%s: %s', encoded.name, note)
    if more := done.facts['notes'][_LOGGED:]:
        logger.info('%s: and %d more', encoded.name, len(more))
    train, test, *others = (Split(done.arrays[f'{part}_image'], done.arrays[f'{part}_label']) for part in splits)
    return Dataset(
        name=encoded.name,
        train=train,
        test=test,
        class_names=encoded.class_names,
        mean=tuple(done.facts['mean']),
        std=tuple(done.facts['std']),
        fingerprint=done.facts['fingerprint'],
        validation=others[0] if others else None,
        notes=(*encoded.notes, *done.facts['notes']),
    )


def _decode(
    encoded: EncodedDataset, splits: dict[str, EncodedSplit], options: LoadOptions, writer: cache.ArrayWriter
) -> JsonDict:
    """Writes '<split>_image' and '<split>_label' of each split; returns the facts that `decode` needs."""
    fingerprint, histogram = Fingerprint(), ChannelHistogram()
    total = sum(len(split.label) for split in splits.values())
    with ThreadPoolExecutor(cores()) as pool:
        readers = {part: _Reader(split, options, pool) for part, split in splits.items()}
        with progress(f'Reading the headers of {encoded.name}', total, 'images') as advance:
            headers = [header for reader in readers.values() for header in reader.read_headers(advance)]
        shape = _shape(headers, options)
        with progress(f'Decoding {encoded.name}', total, 'images') as advance:
            for part, reader in readers.items():

                def blocks(reader: _Reader = reader, part: str = part) -> Iterator[np.ndarray]:
                    for block in reader.read_images(shape, advance):
                        fingerprint.add_images(block)
                        if part == 'train':
                            histogram.add(block)
                        yield block

                writer.write(f'{part}_image', blocks())
                label = reader.label
                writer.write(f'{part}_label', [label])
                fingerprint.end_split(label, shape)
                _check_classes(encoded, part, reader)
    broken = [error for reader in readers.values() for error in reader.errors]
    return {
        'mean': histogram.mean,
        'std': histogram.std,
        'fingerprint': fingerprint.hexdigest(),
        'notes': [*_describe_sizes(headers, shape, options.resize), *_describe_broken(broken)],
    }


class _Reader:
    """Reads the images of a split, in order and on all cores, and stores which are broken."""

    def __init__(self, split: EncodedSplit, options: LoadOptions, pool: ThreadPoolExecutor):
        self._split, self._options, self._pool = split, options, pool
        self._sound = np.ones(len(split.label), bool)
        self._errors: dict[int, str] = {}

    @property
    def errors(self) -> list[str]:
        """What is wrong with the broken images, in the order of the split."""
        return [self._errors[index] for index in sorted(self._errors)]

    def error_of(self, label: int) -> str:
        """Returns what is wrong with the first image of a class."""
        return self._errors[int(np.flatnonzero(self._split.label == label)[0])]

    @property
    def label(self) -> np.ndarray:
        """The labels of the images that are not broken, int32 `[n]`."""
        label: np.ndarray = self._split.label[self._sound]
        return label

    def read_headers(self, advance: Callable[[int], None]) -> Iterator[tuple[int, int, int]]:
        """Yields (height, width, channels) of each image."""
        yield from self._map(lambda index: image_header(self._split.read(index), self._split.describe(index)), advance)

    def read_images(self, shape: tuple[int, int, int], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
        """Yields the images in blocks, uint8 `[n, *shape]`; at least one block, which may be empty."""

        def read(index: int) -> np.ndarray:
            return read_image(self._split.read(index), shape, self._options.resize, name=self._split.describe(index))

        block: list[np.ndarray] = []
        for image in self._map(read, advance):
            block.append(image)
            if len(block) == _BLOCK:
                yield np.stack(block)
                block = []
        yield np.stack(block) if block else np.zeros((0, *shape), np.uint8)

    def _map(self, function: Callable[[int], T], advance: Callable[[int], None]) -> Iterator[T]:
        """Yields the results of the function, and marks the images that cannot be decoded as broken.

        Raises:
          BrokenImageError: an image cannot be decoded, and `broken_images` is not 'skip'.
          InputFileError: a file cannot be read, or was changed. Such an error may be gone at the next start, so the image is
            not left out.
        """

        def attempt(index: int) -> T | BrokenImageError:
            try:
                return function(index)
            except BrokenImageError as error:
                return error

        indices = np.flatnonzero(self._sound)
        for start in range(0, len(indices), _BLOCK):
            block = indices[start : start + _BLOCK].tolist()
            for index, result in zip(block, self._pool.map(attempt, block), strict=True):
                advance(1)
                if not isinstance(result, BrokenImageError):
                    yield result
                elif self._options.broken_images == 'skip':
                    self._sound[index] = False
                    self._errors[index] = one_line(result)
                else:
                    raise BrokenImageError(f"{result}. Or leave out such images: broken_images='skip'")


def _shape(headers: Sequence[tuple[int, int, int]], options: LoadOptions) -> tuple[int, int, int]:
    """Returns the shape of the arrays: see `LoadOptions.image_size`."""
    channels = max((header[2] for header in headers), default=1)
    if options.image_size:
        return options.image_size, options.image_size, channels
    sizes = {header[:2] for header in headers}
    height, width = min(sizes, default=(0, 0))
    if len(sizes) == 1 and 0 < max(height, width) <= LARGEST_OWN_SIZE:
        return height, width, channels
    return options.default_size, options.default_size, channels


def _describe_sizes(headers: Sequence[tuple[int, int, int]], shape: tuple[int, int, int], resize: str) -> list[str]:
    sizes = sorted({header[:2] for header in headers}, key=math.prod)
    if sizes in ([], [shape[:2]]):
        return []
    (low, width), (high, last) = sizes[0], sizes[-1]
    range_text = f'of {low} x {width}' if len(sizes) == 1 else f'from {low} x {width} to {high} x {last}'
    return [f'images {range_text} pixels become {shape[0]} x {shape[1]} (image_size, resize={resize})']


def _describe_broken(errors: Sequence[str]) -> list[str]:
    if not errors:
        return []
    more = [f'and {len(errors) - _LISTED:,} more'] if len(errors) > _LISTED else []
    return [f'{len(errors):,} broken image{"s" if len(errors) > 1 else ""} left out', *errors[:_LISTED], *more]


def _check_classes(encoded: EncodedDataset, part: str, reader: _Reader) -> None:
    counts = np.bincount(reader.label, minlength=len(encoded.class_names))
    if not counts.all():
        missing = int(counts.argmin())
        raise InputFileError(
            f'{encoded.name}: every {part} image of class {encoded.class_names[missing][:80]!r} is broken '
            f'({reader.error_of(missing)}); expected one at least: mend these files, or delete them'
        )
