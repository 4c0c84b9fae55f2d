"""Reads the official CIFAR archives (binary version) as a stream; nothing is ever extracted to disk."""

import dataclasses
import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from resnet_jax.data.sources import IMAGE_SHAPE, Source
from resnet_jax.errors import InputFileError

_IMAGE_BYTES = 3072
_MAX_NAMES_BYTES = 1 << 16
_MAX_OTHER_BYTES = 1 << 24  # of unread members: skipping them still means decompressing them


@dataclasses.dataclass(frozen=True)
class Archive:
    """The contents of an archive.

    Attributes:
        image: {'train' | 'test': uint8 [n, 32, 32, 3]}.
        label: {'train' | 'test': {label's key: uint8 [n]}}.
        names: {label's key: class names}.
    """

    image: dict[str, np.ndarray]
    label: dict[str, dict[str, np.ndarray]]
    names: dict[str, list[str]]


def verify_archive(path: Path, source: Source) -> None:
    """Checks that the file is the official archive, byte for byte.

    Raises:
        InputFileError: the file cannot be read, or its size or SHA-256 differs.
    """
    again = f'get {source.url} again'
    try:
        size = path.stat().st_size
        if size != source.size:
            raise InputFileError(f'{path} has {size} bytes: expected {source.size}, the size of {source.archive_name}; {again}')
        with path.open('rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise _unreadable(path, error, source) from error
    if digest != source.sha256:
        raise InputFileError(f'{path} has SHA-256 {digest}: expected {source.sha256}; {again}')


def read_archive(path: Path, source: Source) -> Archive:
    """Reads all images and labels.

    Raises:
        InputFileError: the archive is damaged, a member is missing or has the wrong size, or a label is out of range.
    """
    record_bytes = len(source.labels) + _IMAGE_BYTES
    splits = {'train': (source.train_files, source.num_train), 'test': (source.test_files, source.num_test)}
    sizes = {name: total // len(files) * record_bytes for files, total in splits.values() for name in files}
    members = _read_members(path, source, sizes)
    names = {}
    for label in source.labels:
        lines = members[label.names_file].decode('utf-8', 'replace').splitlines()
        names[label.key] = [line for line in lines if line.strip()]
        if len(names[label.key]) != label.num_classes:
            raise _wrong(path, label.names_file, f'{len(names[label.key])} class names', label.num_classes)
    image, labels = {}, {}
    height, width, channels = IMAGE_SHAPE
    for split, (files, _) in splits.items():
        records = {name: np.frombuffer(members[name], np.uint8).reshape(-1, record_bytes) for name in files}
        for name in files:
            _check_labels(path, name, records[name], source)
        rows = np.concatenate(list(records.values()))
        planes = rows[:, len(source.labels) :].reshape(-1, channels, height, width)
        image[split] = planes.transpose(0, 2, 3, 1)
        labels[split] = {label.key: rows[:, i] for i, label in enumerate(source.labels)}
    return Archive(image, labels, names)


def _check_labels(path: Path, name: str, records: np.ndarray, source: Source) -> None:
    for i, label in enumerate(source.labels):
        bad = np.flatnonzero(records[:, i] >= label.num_classes)
        if bad.size:
            label_text = f'{label.key} {records[bad[0], i]} in record {bad[0]}'
            raise _wrong(path, name, label_text, f'0 to {label.num_classes - 1}')


def _read_members(path: Path, source: Source, sizes: dict[str, int]) -> dict[str, bytes]:
    """Returns {file name: contents} of the .bin files, which must have the given sizes, and of the class name files."""
    texts = {label.names_file for label in source.labels}
    members = {}
    most = sum(sizes.values()) + _MAX_OTHER_BYTES
    try:
        with tarfile.open(path, 'r|gz') as tar:
            for member in tar:
                if member.offset_data + member.size > most:
                    raise _wrong(path, member.name[-80:], f'{member.size} bytes', f'at most {most} in all members together')
                if member.name.startswith('/') or '..' in member.name.split('/'):
                    raise _wrong(path, member.name[-80:], 'a path out of the archive', f'names in {source.folder}')
                folder, _, name = member.name.removeprefix('./').rpartition('/')
                if folder != source.folder or name not in sizes.keys() | texts:
                    continue
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or name in members:
                    raise _wrong(path, name, 'a link, a folder or a second copy', 'one regular file')
                if member.size != sizes.get(name, member.size) or member.size > max(sizes.get(name, 0), _MAX_NAMES_BYTES):
                    raise _wrong(path, name, f'{member.size} bytes', sizes.get(name, f'at most {_MAX_NAMES_BYTES}'))
                members[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # damaged contents raise an OSError without errno
            raise _unreadable(path, error, source) from error
        raise InputFileError(f'{path} is damaged: {error}; expected {source.archive_name}; get {source.url} again') from error
    missing = sorted((sizes.keys() | texts) - members.keys())
    if missing:
        raise _wrong(path, missing[0], 'no such member', f'{source.folder}/{missing[0]}')
    return members


def _unreadable(path: Path, error: OSError, source: Source) -> InputFileError:
    return InputFileError(f'cannot read {path}: {error.strerror}; expected the file {source.archive_name}')


def _wrong(path: Path, name: str, actual: str, expected: object) -> InputFileError:
    return InputFileError(f'{path}: {name}: found {actual}, expected {expected}; get the official archive again')
