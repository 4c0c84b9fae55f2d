"""The columns of tables of images and labels: which they are, and whether all files of a data set agree."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resnet_jax.errors import InputFileError, one_line
from resnet_jax.runtime.untrusted import parse_json, printable
from resnet_jax.typing import Json

_IMAGES, _LABELS = ('image', 'img'), ('label', 'labels', 'fine_label')
_BYTES, _STRUCTS = 'bytes', 'structs with bytes'  # forms of images
AGAIN = 'copy or write the file again'
_SAME = 'write all files with the same columns and class names'
LARGEST_LABEL = 2**31 - 1  # labels are int32
ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, IndexError)  # of damaged files and missing columns


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A table, and its state when the data set was opened."""

    path: str
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; a program cannot set it
    rows: tuple[int, ...]  # number of rows of each row group


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of the image and of the class, and the class names if the schema has them."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def find_columns(file: TableFile) -> Columns:
    """Returns the columns of the image and of the class.

    Raises:
      InputFileError: there is no such column, several columns are possible, or one has the wrong type.
    """
    schema = pq.read_schema(file.path)
    described = _described(schema)
    kinds = {key: value.get('_type') for key, value in described.items()}
    image = _choose(file, schema, 'image', [key for key in schema.names if kinds.get(key) == 'Image'], _IMAGES)
    label = _choose(file, schema, 'label', [key for key in schema.names if kinds.get(key) == 'ClassLabel'], _LABELS)
    kind = schema.field(image).type
    if _form(kind) not in (_BYTES, _STRUCTS):
        raise InputFileError(
            f'{file.path}: column {printable(image)!r} is {str(kind)[:80]}: expected bytes, or a struct with bytes'
        )
    return Columns(f'{image}.bytes' if _form(kind) == _STRUCTS else image, label, _class_names(schema, label))


def class_names(file: TableFile, column: str) -> tuple[str, ...] | None:
    """Returns the class names of a column from the metadata of `datasets`; None if the metadata has none."""
    return _class_names(pq.read_schema(file.path), column)


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    described = _described(schema).get(column, {})
    names = described.get('names')
    return tuple(map(str, names)) if described.get('_type') == 'ClassLabel' and isinstance(names, list) else None


def _form(kind: pa.DataType) -> str:
    """Returns what the values of a column are, or '' if they are neither images nor classes."""
    if pa.types.is_struct(kind) and kind.get_field_index('bytes') >= 0:
        return _STRUCTS
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _BYTES
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(kind):
        return 'integers'
    return 'text' if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ''


def check_same(tables: dict[str, list[TableFile]], columns: Columns) -> None:
    """Checks that each file has the columns and the class names of the first, so that a label is the same class in all of them.

    Raises:
      InputFileError: a file differs.
    """
    first, *others = (file for files in tables.values() for file in files)
    schema = pq.read_schema(first.path)
    image = columns.image if columns.image in schema.names else columns.image.removesuffix('.bytes')
    for file in others:
        other = pq.read_schema(file.path)
        for name in (image, columns.label):
            if (found := _found(other, name)) != (expected := _found(schema, name)):
                raise InputFileError(
                    f'{file.path}: column {printable(name)!r} is {found}: expected {expected}, as in {first.path}; {_SAME}'
                )
        names = itertools.zip_longest(_class_names(other, columns.label) or (), columns.class_names or ())
        for i, (theirs, ours) in enumerate(names):
            if theirs != ours:
                found, expected = ('none' if name is None else f'{name!r:.80}' for name in (theirs, ours))
                raise InputFileError(
                    f'{file.path}: the name of class {i} is {found}: expected {expected}, as in {first.path}; {_SAME}'
                )


def _found(schema: pa.Schema, column: str) -> str:
    places = schema.get_all_field_indices(column)
    if len(places) != 1:
        return f'there {len(places)} times' if places else 'missing'
    kind = schema.field(places[0]).type
    return _form(kind) or str(kind)[:80]


def _described(schema: pa.Schema) -> Mapping[str, Json]:
    try:
        features = parse_json((schema.metadata or {})[b'huggingface'].decode())['info']['features']
        return {key: value for key, value in features.items() if isinstance(value, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _choose(file: TableFile, schema: pa.Schema, role: str, typed: list[str], usual: Sequence[str]) -> str:
    candidates = [key for key in usual if key in (typed or schema.names)]
    if not candidates and len(set(typed)) != 1:
        columns = ', '.join(f'{field.name}: {field.type}' for field in schema)
        raise InputFileError(
            f'{file.path} has the columns {printable(columns)[:300]}: expected one for the {role}, named {" or ".join(usual)}'
        )
    name: str = (candidates or typed)[0]
    if (count := schema.names.count(name)) > 1:
        raise InputFileError(f'{file.path} has {count} columns named {printable(name)!r}: expected one; {AGAIN}')
    return name


def read_column(file: TableFile, column: str) -> np.ndarray:
    """Returns a column of integers, int64 `[n]`, or of text, objects `[n]`.

    Raises:
      InputFileError: there is no such column, it has another type, a value is missing or too large, or the file is damaged.
    """
    try:
        with pq.ParquetFile(file.path, page_checksum_verification=True) as table:
            values = table.read([column]).column(column)
    except ERRORS as error:
        raise InputFileError(f'{file.path}: column {printable(column)!r} cannot be read: {reason(error)}; {AGAIN}') from None
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if _form(values.type) not in ('integers', 'text'):
        raise InputFileError(f'{file.path}: column {printable(column)!r} is {str(values.type)[:80]}: expected integers or text')
    if values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise InputFileError(f'{file.path}: row {row} has no {printable(column)!r}: expected a class; remove the row')
    array: np.ndarray = values.to_numpy()
    if array.dtype.kind not in 'iu':
        return array
    if (large := np.flatnonzero(array > LARGEST_LABEL)).size:
        raise InputFileError(f'{file.path}: row {large[0]}: label {array[large[0]]}: expected at most {LARGEST_LABEL}; {AGAIN}')
    return array.astype(np.int64)


def reason(error: BaseException) -> str:
    return printable(getattr(error, 'strerror', None) or one_line(error))[:200]
