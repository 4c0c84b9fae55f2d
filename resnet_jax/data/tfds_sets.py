"""`tfds:NAME[:VERSION]`: any image classification set that is prepared in tfds's layout, in array_record or tfrecord."""

import dataclasses
import errno
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.data import cache
from resnet_jax.data.encoded import EncodedDataset, EncodedSplit, Subset, place_of, require_every_class, split_by_class
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.tfds_features import Description, Shard, read_description
from resnet_jax.data.tfds_folder import tfds_root
from resnet_jax.data.tfrecord import scan_records
from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.runtime.files import sha256_of
from resnet_jax.runtime.progress import progress
from resnet_jax.runtime.untrusted import check_regular, printable
from resnet_jax.typing import JsonDict

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

logger = logging.getLogger(__name__)

_VALIDATION = ('validation', 'val', 'valid')
_BLOCK = 256  # number of records read at once from an array_record file
_NAME = re.compile(r'(?P<name>\w[\w.+-]*(/\w[\w.+-]*)?)(:(?P<version>\d+\.\d+\.\d+))?')
_AGAIN = 'copy or prepare the folder again'


@dataclasses.dataclass(frozen=True)
class _File:
    """A record file, and its state when the data set was opened."""

    path: str
    file_format: str
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; a program cannot set it


class _Records:
    """The records of a split: see `EncodedSplit`."""

    def __init__(self, files: list[_File], lengths: list[int], arrays: dict[str, np.ndarray], part: str, image_key: str):
        self._files, self._image_key = files, image_key
        self._starts = np.cumsum([0, *lengths])
        self._position, self._size = arrays.get(f'{part}_position'), arrays.get(f'{part}_size')
        self.label = arrays[f'{part}_label']

    def read(self, index: int) -> bytes:
        shard, record = self._find(index)
        file = self._files[shard]
        try:
            status = os.stat(file.path)  # noqa: PTH116 (creating a Path for each of a million records takes long)
            if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
                raise InputFileError(
                    f'{file.path} was changed while the data set was read; start again when nothing writes to it'
                )
            if self._position is None or self._size is None:
                data: bytes = _array_record(file).read([record])[0]
            else:
                descriptor = _descriptor(file)  # referenced until it is read: another thread may replace it in the cache
                data = os.pread(descriptor.number, int(self._size[index]), int(self._position[index]))
        except (OSError, RuntimeError) as error:
            raise InputFileError(f'{file.path} cannot be read: record {record}: {one_line(error)[:200]}; {_AGAIN}') from None
        return _image(data, self._image_key, f'{file.path}: record {record}')

    def describe(self, index: int) -> str:
        shard, record = self._find(index)
        return f'{self._files[shard].path}: record {record}'

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, index, side='right')) - 1
        return shard, index - int(self._starts[shard])


def open_tfds(name: str, path: str, options: LoadOptions) -> EncodedDataset:
    """Opens `<root>/NAME/VERSION`, or `<root>/NAME/CONFIG/VERSION` for 'NAME/CONFIG'; by default the newest version.

    features.json says which feature is the image and which is the class. 'train' is the training split and 'test' the test
    split; 'validation' is then the validation split. If there is no 'test', or its labels are all -1, as for ImageNet,
    'validation' is the test split. With only 'train', a share of each class is the test split. The first call reads all records
    for their labels and checksums.

    Args:
      name: the name of the data set.
      path: the part after the colon, NAME or NAME:VERSION.

    Raises:
      ConfigError: `path` has another form, or the root is not a tfds root.
      InputFileError: there is no such folder, it is damaged, or it does not contain images with one class each.
    """
    folder = _find_folder(path, options)
    description = read_description(folder)
    shards = {part: shards for part, shards in description.shards.items() if part in ('train', 'test', *_VALIDATION) and shards}
    if 'train' not in shards:
        names = printable(', '.join(description.shards))[:200]
        raise InputFileError(f"{folder} has no split 'train': found {names or 'none'}; {_AGAIN}")
    files = {part: [_status(shard, description.file_format) for shard in shards[part]] for part in shards}
    version = _version(folder, files)
    place = place_of(folder, ((file.path, file.changed) for each in files.values() for file in each))
    labels = hashlib.sha256(f'{version} {place}'.encode()).hexdigest()[:32]
    done = cache.cached(f'labels-{labels}', lambda writer: _write_labels(folder.parent.name, description, shards, writer))
    splits = {
        part: _Records(files[part], [shard.length for shard in shards[part]], done.arrays, part, description.image_key)
        for part in shards
    }
    for part in [part for part in splits if part != 'train' and (splits[part].label == -1).all()]:
        logger.info("%s: split '%s' left out, for its labels are all -1", folder, part)
        del splits[part]
    for part, split in splits.items():
        _check_labels(split, part, len(description.class_names))
    train: EncodedSplit = splits['train']
    validation: EncodedSplit | None = next((splits[part] for part in _VALIDATION if part in splits), None)
    test: EncodedSplit | None = splits.get('test')
    if test is None:
        test, validation = validation, None
    if test is None:
        parts = split_by_class(train.label, options.test_fraction, description.class_names)
        train, test = (Subset(splits['train'], part) for part in parts)
        version = f'{version} test_fraction {options.test_fraction}'
    dataset = EncodedDataset(name, train, test, description.class_names, version, validation, place=place)
    require_every_class(dataset, str(folder))
    return dataset


def _find_folder(path: str, options: LoadOptions) -> Path:
    match = _NAME.fullmatch(path)
    if not match:
        raise ConfigError(f"data set 'tfds:{path}' is not a name: expected tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION")
    root = tfds_root(options.data_dir)
    folder = root / match['name']
    if match['version']:
        if not os.path.isdir(folder / match['version']):  # noqa: PTH112 (Path.is_dir raises where the name is too long)
            raise InputFileError(
                f'no folder {folder / match["version"]}: {_found(folder)}; choose another version, or another root by data_dir'
            )
        return folder / match['version']
    versions = [Path(entry.path) for entry in _folders(folder) if re.fullmatch(r'\d+\.\d+\.\d+', entry.name)]
    if not versions:
        where = folder if _folders(folder) else root
        problem = 'no versions in' if _folders(folder) else f"no data set '{match['name']}' in"
        raise InputFileError(
            f'{problem} {where}: {_found(where)}; expected a folder NAME/VERSION or NAME/CONFIG/VERSION prepared by tfds: '
            'change the name, or the root by data_dir or TFDS_DATA_DIR'
        )
    return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))))


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scan:
            return sorted((entry for entry in scan if entry.is_dir()), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise InputFileError(f'cannot read {folder}: {error.strerror}; change its permissions') from None


def _found(folder: Path) -> str:
    names = [entry.name for entry in _folders(folder) if entry.name != 'downloads']
    return 'found ' + (printable(', '.join(names[:10])) + (', ...' if len(names) > 10 else '') or 'nothing there')


def _status(shard: Shard, file_format: str) -> _File:
    try:
        check_regular(shard.path)
        status = shard.path.stat()
    except OSError as error:
        raise InputFileError(f'{shard.path} cannot be read: {error.strerror}; {_AGAIN}') from None
    return _File(str(shard.path), file_format, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _version(folder: Path, files: dict[str, list[_File]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(path.name for path in folder.iterdir() if re.fullmatch(r'.*\.json|.*\.labels\.txt', path.name)):
        try:
            digest.update(f'{name} {sha256_of(folder / name)}\n'.encode(errors='surrogateescape'))
        except OSError as error:
            raise InputFileError(f'{folder / name} cannot be read: {error.strerror}; {_AGAIN}') from None
    for part, each in files.items():
        for file in each:
            digest.update(os.fsencode(f'{part} {Path(file.path).name} {file.size} {file.modified}\n'))
    return digest.hexdigest()


def _write_labels(name: str, description: Description, shards: dict[str, list[Shard]], writer: cache.ArrayWriter) -> JsonDict:
    """Writes '<part>_label' int32 `[n]` and, for tfrecord, '<part>_position' and '<part>_size' in bytes, int64 `[n]`.

    Raises:
      InputFileError: a file is damaged or has another number of records.
    """
    for part, files in shards.items():
        labels: list[int] = []
        places: list[tuple[int, int]] = []
        with progress(f'Reading the labels of {name} {part}', sum(shard.length for shard in files), 'images') as advance:
            for shard in files:
                count = 0
                for position, record in _scan(shard, description.file_format):
                    labels.append(_label(record, description.label_key, f'{shard.path}: record {count}'))
                    places.append((position, len(record)))
                    count += 1
                    advance(1)
                if count != shard.length:
                    raise InputFileError(f'{shard.path} holds {count} records: expected {shard.length}; {_AGAIN}')
        writer.write(f'{part}_label', [np.array(labels, np.int32)])
        if description.file_format == 'tfrecord':
            positions, sizes = np.array(places, np.int64).reshape(-1, 2).T
            writer.write(f'{part}_position', [positions])
            writer.write(f'{part}_size', [sizes])
    return {}


def _scan(shard: Shard, file_format: str) -> Iterator[tuple[int, bytes]]:
    """Yields the position in the file (0 for array_record) and the bytes of each record.

    Raises:
      InputFileError: the file is missing or damaged.
    """
    try:
        if file_format == 'tfrecord':
            yield from scan_records(shard.path)
            return
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(shard.path))
        try:
            count = reader.num_records()
            for start in range(0, count, _BLOCK):
                for record in reader.read(start, min(start + _BLOCK, count)):
                    yield 0, record
        finally:
            reader.close()
    except (OSError, RuntimeError) as error:  # the array_record reader checks its hashes and raises RuntimeError
        raise InputFileError(f'{shard.path} is missing or damaged: {one_line(error)[:200]}; {_AGAIN}') from None


class _Descriptor:
    """An open file; it is closed when nothing refers to it any more."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, 'number'):
            os.close(self.number)


@functools.lru_cache(maxsize=128)  # far below the usual limit of 1024 open files
def _descriptor(file: _File) -> _Descriptor:
    return _Descriptor(file.path)


@functools.lru_cache(maxsize=128)
def _array_record(file: _File) -> 'ArrayRecordReader':
    """Returns a reader; it may be used from several threads."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(file.path, options='readahead_buffer_size:0', file_reader_buffer_size=32768)


def _feature(record: bytes, key: str, kind: str, where: str) -> object:
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        values = getattr(tf_example_pb2.Example.FromString(record).features.feature[key], kind).value
    except Exception as error:  # protobuf's DecodeError; its place differs between versions
        raise InputFileError(f'{where} is damaged: {one_line(error)[:200]}; {_AGAIN}') from None
    if len(values) != 1:
        raise InputFileError(f'{where} has {len(values)} values of {printable(key)!r}: expected one; {_AGAIN}')
    return values[0]


def _image(record: bytes, key: str, where: str) -> bytes:
    value = _feature(record, key, 'bytes_list', where)
    assert isinstance(value, bytes)
    return value


def _label(record: bytes, key: str, where: str) -> int:
    value = _feature(record, key, 'int64_list', where)
    assert isinstance(value, int)
    if not -1 <= value < 2**31:
        raise InputFileError(f'{where} has label {value}: expected 0 to the number of classes - 1; {_AGAIN}')
    return value


def _check_labels(split: _Records, part: str, num_classes: int) -> None:
    bad = np.flatnonzero((split.label < 0) | (split.label >= num_classes))
    if bad.size:
        raise InputFileError(
            f'{split.describe(int(bad[0]))}: label {split.label[bad[0]]} in split {part!r}: expected 0 to {num_classes - 1}; '
            f'{_AGAIN}'
        )
