"""Reads CIFAR from a copy in one of several formats, which all give equal arrays. Nothing is extracted to disk."""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from resnet_jax.data.official import Contents, in_official_order
from resnet_jax.data.sources import IMAGE_SHAPE, Copy, Source
from resnet_jax.errors import InputFileError
from resnet_jax.runtime.files import sha256_of
from resnet_jax.runtime.untrusted import check_regular

_IMAGE_BYTES = 3072
_MAX_NAMES_BYTES = 1 << 16
_MAX_OTHER_BYTES = 1 << 24  # size of all unread members; they are decompressed even when they are skipped
_MAX_PYTHON_BYTES = 256  # size of an image's labels and file name in a pickle


def verify_archive(path: Path, source: Source) -> Copy:
    """Returns which copy `path` is: an official archive, or a folder of tables. `read_archive` checks the tables' pixels.

    Raises:
      InputFileError: the file cannot be read, or no official archive has its size and SHA-256.
    """
    tables = next((copy for copy in source.copies if copy.form == 'parquet'), None)
    if tables is not None and path.is_dir():
        return tables
    archives = [copy for copy in source.copies if copy.form != 'parquet']
    again = 'get it again' if len(archives) == 1 else f'get one of them, or a folder of parquet files, from {source.homepage}'
    try:
        size = path.stat().st_size
        archive = next((copy for copy in archives if copy.files[0].size == size), None)
        if archive is None:
            expected = ' or '.join(f'{copy.files[0].size}, the size of {copy.files[0].name}' for copy in archives)
            raise InputFileError(f'{path} has {size} bytes: expected {expected}; {again}')
        digest = sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error, archives[0]) from error
    if digest != archive.files[0].sha256:
        raise InputFileError(f'{path} has SHA-256 {digest}: expected {archive.files[0].sha256}; {again}')
    return archive


def read_archive(path: Path, copy: Copy, source: Source) -> Contents:
    """Reads all images and labels.

    Raises:
      InputFileError: the copy is damaged, a part is missing or has the wrong size, a label is out of range, or pixels or labels
        in tables differ from the official ones.
    """
    if copy.form == 'parquet':
        from resnet_jax.data.cifar_parquet import read_tables

        return in_official_order(path, read_tables(path, source), source)
    if copy.form == 'python':
        return _read_python(path, copy, source)
    return _read_binary(path, copy, source)


def _read_binary(path: Path, copy: Copy, source: Source) -> Contents:
    record_bytes = len(source.labels) + _IMAGE_BYTES
    splits = {'train': (source.train_files, source.num_train), 'test': (source.test_files, source.num_test)}
    sizes = {name: total // len(files) * record_bytes for files, total in splits.values() for name in files}
    texts = {label.names_file for label in source.labels}
    members = _read_members(path, copy, source, sizes, dict.fromkeys(texts, _MAX_NAMES_BYTES))
    names = {}
    for label in source.labels:
        lines = members[label.names_file].decode('utf-8', 'replace').splitlines()
        names[label.key] = [line for line in lines if line.strip()]
        if len(names[label.key]) != label.num_classes:
            raise _wrong(path, label.names_file, f'{len(names[label.key])} class names', label.num_classes)
    image, labels = {}, {}
    for split, (files, _) in splits.items():
        records = {name: np.frombuffer(members[name], np.uint8).reshape(-1, record_bytes) for name in files}
        for name in files:
            _check_labels(path, name, records[name], source)
        rows = np.concatenate(list(records.values()))
        image[split] = _from_planes(rows[:, len(source.labels) :])
        labels[split] = {label.key: rows[:, i] for i, label in enumerate(source.labels)}
    return Contents(image, labels, names)


def _read_python(path: Path, copy: Copy, source: Source) -> Contents:
    from resnet_jax.data.pickled import NotCifarError, read_batch, read_names

    splits = {
        'train': (source.python_train_files, source.num_train),
        'test': (source.python_test_files, source.num_test),
    }
    most = {
        name: total // len(files) * (_IMAGE_BYTES + _MAX_PYTHON_BYTES) + _MAX_NAMES_BYTES
        for files, total in splits.values()
        for name in files
    } | {source.python_names_file: _MAX_NAMES_BYTES}
    members = _read_members(path, copy, source, {}, most)
    name = source.python_names_file
    try:
        names = read_names(members[name], {label.key: label.python_names for label in source.labels})
        for label in source.labels:
            if len(names[label.key]) != label.num_classes:
                raise _wrong(path, name, f'{len(names[label.key])} class names', label.num_classes)
        image, labels = {}, {}
        for split, (files, total) in splits.items():
            batches = []
            for name in files:
                keys = [label.python_key for label in source.labels]
                batch = read_batch(members.pop(name), keys, total // len(files))
                _check_labels(path, name, batch, source)
                batches.append(batch)
            rows = np.concatenate(batches)
            image[split] = _from_planes(rows[:, len(source.labels) :])
            labels[split] = {label.key: rows[:, i] for i, label in enumerate(source.labels)}
    except NotCifarError as error:
        raise _wrong(path, name, str(error), 'a pickle of CIFAR') from None
    return Contents(image, labels, names)


def _from_planes(planes: np.ndarray) -> np.ndarray:
    height, width, channels = IMAGE_SHAPE
    return planes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _check_labels(path: Path, name: str, records: np.ndarray, source: Source) -> None:
    for i, label in enumerate(source.labels):
        bad = np.flatnonzero(records[:, i] >= label.num_classes)
        if bad.size:
            label_text = f'{label.key} {records[bad[0], i]} in record {bad[0]}'
            raise _wrong(path, name, label_text, f'0 to {label.num_classes - 1}')


def _read_members(path: Path, copy: Copy, source: Source, sizes: dict[str, int], most: dict[str, int]) -> dict[str, bytes]:
    """Returns {file name: contents} of the files in `sizes` and `most`.

    Args:
      sizes: the exact sizes of files that must exist.
      most: the largest allowed sizes of other files.

    Raises:
      InputFileError: the archive is damaged, a file is missing, or a name or size is wrong.
    """
    members = {}
    total = sum(sizes.values()) + sum(most.values()) + _MAX_OTHER_BYTES
    try:
        check_regular(path)
        with tarfile.open(path, 'r|gz') as tar:
            for member in tar:
                if member.offset_data + member.size > total:
                    raise _wrong(path, member.name[-80:], f'{member.size} bytes', f'at most {total} in all members together')
                if member.name.startswith('/') or '..' in member.name.split('/'):
                    raise _wrong(path, member.name[-80:], 'a path out of the archive', f'names in {copy.folder}')
                folder, _, name = member.name.removeprefix('./').rpartition('/')
                if folder != copy.folder or name not in sizes.keys() | most.keys():
                    continue
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or name in members:
                    raise _wrong(path, name, 'a link, a folder or a second copy', 'one regular file')
                if member.size != sizes.get(name, member.size) or member.size > most.get(name, member.size):
                    raise _wrong(path, name, f'{member.size} bytes', sizes.get(name, f'at most {most.get(name)}'))
                members[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # damaged contents raise an OSError without errno
            raise _unreadable(path, error, copy) from error
        raise InputFileError(
            f'{path} is damaged: {error}; expected {copy.files[0].name}; get it again from {source.homepage}'
        ) from error
    missing = sorted((sizes.keys() | most.keys()) - members.keys())
    if missing:
        raise _wrong(path, missing[0], 'no such member', f'{copy.folder}/{missing[0]}')
    return members


def _unreadable(path: Path, error: OSError, copy: Copy) -> InputFileError:
    return InputFileError(f'cannot read {path}: {error.strerror}; expected the file {copy.files[0].name}')


def _wrong(path: Path, name: str, actual: str, expected: object) -> InputFileError:
    return InputFileError(f'{path}: {name}: found {actual}, expected {expected}; get the official archive again')
