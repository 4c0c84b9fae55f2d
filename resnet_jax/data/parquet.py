"""`parquet:PATH`: tables of images and labels in the layout of Hugging Face, from local files or by name from the hub."""

import collections
import functools
import hashlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resnet_jax.data.encoded import EncodedDataset, EncodedSplit, Subset, place_of, require_every_class, split_by_class
from resnet_jax.data.images import BrokenImageError
from resnet_jax.data.options import LoadOptions
from resnet_jax.data.parquet_columns import (
    AGAIN,
    ERRORS,
    LARGEST_LABEL,
    Columns,
    TableFile,
    check_same,
    find_columns,
    read_column,
    reason,
)
from resnet_jax.errors import InputFileError
from resnet_jax.runtime.untrusted import check_regular, printable

logger = logging.getLogger(__name__)

_TRAIN, _VALIDATION, _TEST = ('train', 'training'), ('validation', 'valid', 'val', 'dev'), ('test',)
_PARTS = {name: part for part, names in (('train', _TRAIN), ('validation', _VALIDATION), ('test', _TEST)) for name in names}
_LARGEST_GROUP = 2**30  # bytes of images in a row group; a row group is read as a whole
_LAYOUT = 'expected a .parquet file, or a folder of them such as PATH/train-00000-of-00001.parquet and PATH/test-...'


class Rows:
    """The rows of several files: see `EncodedSplit`."""

    def __init__(self, files: Sequence[TableFile], column: str, label: np.ndarray):
        self._files, self._column, self.label = list(files), column, label
        self._groups = [(file, group) for file in files for group in range(len(file.rows))]
        self._starts = np.cumsum([0, *(rows for file in files for rows in file.rows)])

    def read(self, index: int) -> bytes:
        file, group, row = self._find(index)
        with _lock:  # a group is read once for all threads that need it
            values = _images(file, group, self._column)
        data = values[row].as_py()
        if not isinstance(data, bytes):
            raise BrokenImageError(f'{self.describe(index)} has no image: expected the bytes of one; {AGAIN}')
        return data

    def describe(self, index: int) -> str:
        file, group, row = self._find(index)
        return f'{file.path}: row {sum(file.rows[:group]) + row}'

    def _find(self, index: int) -> tuple[TableFile, int, int]:
        position = int(np.searchsorted(self._starts, index, side='right')) - 1
        return *self._groups[position], index - int(self._starts[position])


def open_parquet(name: str, path: str, options: LoadOptions) -> EncodedDataset:
    """Opens the tables of a data set. Images are read one row group at a time.

    The splits are the files whose names begin with train, validation or test, or that are in folders with these names. With
    'train' and 'test', 'validation' is the validation split; without 'test', it is the test split. With only 'train', or with
    files of other names, a share of each class is the test split. A split whose labels are all -1, such as ImageNet's test
    images, is left out. The image is the column with type Image in the metadata of `datasets`, or the column named 'image' or
    'img'; its values are bytes, or structs with a field 'bytes'. The class is the column with type ClassLabel, or the column
    named 'label', 'labels' or 'fine_label'; its values are integers or text. All files must have these two columns
    and the same class names.

    Args:
      name: the name of the data set.
      path: a file, a folder, or hf://datasets/OWNER/NAME[@REVISION][/FOLDER], which `huggingface_hub` downloads to its cache.

    Raises:
      InputFileError: there are no such files, a file is damaged, or the files are not a set of images with one class each.
      ConfigError: the name on the hub is not valid, or `huggingface_hub` is not installed.
    """
    if path.startswith('hf://'):
        from resnet_jax.data.hub import fetch_tables

        root = fetch_tables(path)
    else:
        root = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises where there is no home)
    tables = find_tables(root)
    columns = find_columns(tables['train'][0])
    check_same(tables, columns)
    values = {part: np.concatenate([read_column(file, columns.label) for file in files]) for part, files in tables.items()}
    for part in [part for part, array in values.items() if part != 'train' and array.dtype.kind == 'i' and (array == -1).all()]:
        logger.info('%s: split %r left out, for its labels are all -1', root, part)
        del tables[part], values[part]
    labels, class_names = _labels(tables, columns, values)
    version = hashlib.sha256(f'{columns} {class_names}'.encode(errors='surrogatepass'))
    for part, files in tables.items():
        for file in files:
            version.update(os.fsencode(f'{part} {os.path.relpath(file.path, root)} {file.size} {file.modified}\n'))
    place = place_of(root, ((file.path, file.changed) for files in tables.values() for file in files))
    splits: dict[str, EncodedSplit] = {part: Rows(files, columns.image, labels[part]) for part, files in tables.items()}
    if len(splits) == 1:
        version.update(f'test_fraction {options.test_fraction}'.encode())
        parts = split_by_class(labels['train'], options.test_fraction, class_names)
        train, test = (Subset(splits['train'], part) for part in parts)
        return EncodedDataset(name, train, test, class_names, version.hexdigest(), random_access=False, place=place)
    validation = splits.get('validation') if 'test' in splits else None
    test_split = splits['test' if 'test' in splits else 'validation']
    facts = class_names, version.hexdigest(), validation
    dataset = EncodedDataset(name, splits['train'], test_split, *facts, random_access=False, place=place)
    require_every_class(dataset, str(root))
    return dataset


def find_tables(root: Path) -> dict[str, list[TableFile]]:
    """Returns the files of the splits 'train' and, if there are any, 'validation' and 'test', in the order of their paths.

    Raises:
      InputFileError: there are no files, they belong to several data sets, or one is damaged.
    """
    is_folder = os.path.isdir(root)  # noqa: PTH112 (Path.is_dir raises where the path is too long)
    if is_folder:
        paths = sorted(path for path in root.rglob('*.parquet') if not _hidden(path.relative_to(root)))
    else:
        paths = [root] if os.path.isfile(root) else []  # noqa: PTH113
    if not paths:
        raise InputFileError(f'{root} {"holds no .parquet files" if is_folder else "does not exist"}; {_LAYOUT}')
    by_part: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        by_part.setdefault(_part(path, root), []).append(path)
    known = {key: files for key, files in by_part.items() if key[1]}
    if not known or not is_folder:
        return {'train': [_open(path) for path in paths]}
    if len(folders := sorted({str(folder) for folder, _ in known})) > 1:
        raise InputFileError(
            f'{root} holds several data sets, in {printable(", ".join(folders))[:300]}: expected one; add a folder to the path'
        )
    if others := sum(len(files) for key, files in by_part.items() if not key[1]):
        logger.info('%s: %d .parquet files of other splits left out', root, others)
    tables = {part: [_open(path) for path in files] for (_, part), files in known.items()}
    if 'train' not in tables:
        raise InputFileError(f'{root} holds no training split, only {", ".join(sorted(tables))}; {_LAYOUT}')
    return {part: tables[part] for part in ('train', 'validation', 'test') if part in tables}


def _hidden(path: Path) -> bool:
    return any(part.startswith(('.', '__')) for part in path.parts)


def _part(path: Path, root: Path) -> tuple[Path, str]:
    """Returns the folder of the data set, and the split of a file, or ''."""
    word = re.split(r'[-_.]', path.stem.lower(), maxsplit=1)[0]
    if word in _PARTS:
        return path.parent, _PARTS[word]
    if path.parent != root and path.parent.name.lower() in _PARTS:
        return path.parent.parent, _PARTS[path.parent.name.lower()]
    return path.parent, ''


def _open(path: Path) -> TableFile:
    try:
        check_regular(path)
        status = path.stat()
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    except ERRORS as error:
        raise InputFileError(f'{path} cannot be read: {reason(error)}; expected a table in parquet; {AGAIN}') from None
    return TableFile(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, rows)


def _labels(
    tables: dict[str, list[TableFile]], columns: Columns, values: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the int32 labels of each split and the class names: those in the schema, or else the sorted values.

    Raises:
      InputFileError: a label is out of range, two classes have the same name, or there are fewer than two classes.
    """
    path = tables['train'][0].path
    integers = values['train'].dtype.kind == 'i'
    names = columns.class_names if integers else None
    for part, array in values.items() if integers else ():
        bad = np.flatnonzero((array < 0) | (array >= (LARGEST_LABEL + 1 if names is None else len(names))))
        if bad.size:
            where = Rows(tables[part], columns.image, array).describe(int(bad[0]))
            expected = '0 or more' if names is None else f'0 to {len(names) - 1}'
            raise InputFileError(f'{where}: label {array[bad[0]]}: expected {expected}; {AGAIN}')
    if names is None:
        distinct = sorted(set(np.concatenate(list(values.values())).tolist()))
        names = tuple(map(str, distinct))
        values = {part: np.searchsorted(np.array(distinct, array.dtype), array) for part, array in values.items()}
    if len(names) < 2:
        raise InputFileError(f'{path} has {len(names)} class: expected two or more')
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise InputFileError(f'{path} has two classes named {repeated[0]!r:.80}: expected a name of its own for each; {AGAIN}')
    return {part: array.astype(np.int32) for part, array in values.items()}, names


_lock = threading.Lock()


@functools.lru_cache(maxsize=2)  # threads may read from the end of one group and the beginning of the next
def _images(file: TableFile, group: int, column: str) -> pa.Array:
    """Returns a column of a row group, a pyarrow array.

    Raises:
      InputFileError: the file is damaged or was changed, or the row group is too large.
    """
    try:
        status = Path(file.path).stat()
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
            raise InputFileError(f'{file.path} was changed while the data set was read; start again when nothing writes to it')
        with pq.ParquetFile(file.path, metadata=_metadata(file), page_checksum_verification=True) as table:
            chunks = table.metadata.row_group(group)
            size = sum(chunks.column(i).total_uncompressed_size for i in range(chunks.num_columns))
            if size > _LARGEST_GROUP:
                raise InputFileError(
                    f'{file.path}: row group {group} has {size / 2**30:.1f} GiB: expected at most {_LARGEST_GROUP >> 30} GiB, '
                    'for it is read as a whole; write the table again with smaller groups, such as row_group_size=1000'
                )
            values = table.read_row_group(group, [column]).column(0)
    except ERRORS as error:
        raise InputFileError(f'{file.path}: row group {group} cannot be read: {reason(error)}; {AGAIN}') from None
    values = values.combine_chunks()
    return values.field('bytes') if pa.types.is_struct(values.type) else values


@functools.lru_cache(maxsize=64)
def _metadata(file: TableFile) -> pq.FileMetaData:
    """Returns the metadata of a file; their size grows with the number of row groups."""
    return pq.read_metadata(file.path)
