"""Reads and writes files of torch.save without torch: the zip format (torch 1.6 and later) and the legacy format.

Files are assumed to be hostile. The pickle runs in `unpickler`. The claimed size of each tensor is compared with the available
bytes before the tensor becomes an array; the array is a view of these bytes, so a false claim costs no memory.

The formats, after `torch/serialization.py`:

  zip     <name>/data.pkl, the object; <name>/data/<key>, the elements of a storage; <name>/byteorder; all uncompressed
  legacy  five pickles: magic number, protocol, facts about the machine, the object, the keys of the storages; then for each
          key the number of elements as int64, and the elements, little-endian
"""

import collections
import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from resnet_jax.errors import InputFileError
from resnet_jax.runtime.pickle_machine import RefusedError
from resnet_jax.weights.unpickler import Inert, Tensor, Unpickler

Result = TypeVar('Result')

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_Raw = dict[str, tuple[bytes | memoryview, np.dtype]]  # by storage: its bytes, and their dtype with byte order
_DEEPEST = 8  # levels of containers that are searched for tensors
_MOST_DICTS = 16  # number of dicts of tensors in one file: an optimizer has one for every parameter


class StateDict(NamedTuple):
    """The tensors of one dict of a file; they are read one by one.

    Attributes:
      shapes: shapes by name; not yet compared with the available bytes.
      read: function from a name to the tensor, in the file's dtype, if possible a read-only view of the file's bytes. Raises
        InputFileError if the tensor claims more bytes than there are.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def read_torch(data: bytes, path: Path) -> dict[str, StateDict]:
    """Returns the state dicts of a file, such as {'': ...} or {'state_dict': ..., 'state_dict_ema': ...}.

    A state dict is any dict of tensors by name, at the top or within other dicts, lists and tuples. Its key here is the path to
    the dict, joined by '/'. If there are many, only the largest are returned, largest first.

    Args:
      data: the bytes of the file.
      path: for messages.

    Raises:
      InputFileError: the file is damaged, has no state dict, or contains anything but tensors and containers; nothing in it
        was executed.
    """

    def checked(function: Callable[..., Result], *arguments: object) -> Result:
        try:
            return function(*arguments)
        except RefusedError as error:
            raise InputFileError(
                f'{path} {error}; expected a state dict of tensors: save it as torch.save(model.state_dict(), ...), '
                'or fetch the file again'
            ) from None

    by_path, raw = checked(_read, data)

    def reader(tensors: Mapping[str, Tensor]) -> Callable[[str], np.ndarray]:
        return lambda name: checked(_array, name, tensors[name], raw[tensors[name].storage.key])

    return {
        key: StateDict({name: tensor.shape for name, tensor in tensors.items()}, reader(tensors))
        for key, tensors in by_path.items()
    }


def _read(data: bytes) -> tuple[dict[str, dict[str, Tensor]], _Raw]:
    if data[:2] != b'PK' and data[:1] != b'\x80':
        raise RefusedError('is not a file of torch.save')
    root, raw = (_read_zip if data[:2] == b'PK' else _read_legacy)(data)
    return _state_dicts(root), raw


def _read_zip(data: bytes) -> tuple[object, _Raw]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            sizes = [entry.file_size for entry in archive.infolist()]
            # No entry may be compressed or stored twice, so the contents cannot be larger than the file.
            if len(sizes) != len(entries) or sum(sizes) > len(data):
                raise RefusedError('is a zip archive whose entries overlap')
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise RefusedError('is a compressed zip archive, as torch.save never writes one')
            programs = [name for name in entries if name.endswith('/data.pkl')]
            if len(programs) != 1:
                raise RefusedError(f'is a zip archive with {len(programs)} entries data.pkl, where torch.save writes one')
            root = programs[0].removesuffix('data.pkl')
            order = archive.read(f'{root}byteorder') if f'{root}byteorder' in entries else b'little'
            if order not in (b'little', b'big'):
                raise RefusedError('has an unknown byte order')
            unpickler = Unpickler(archive.read(programs[0]))
            result = unpickler.load()
            raw: _Raw = {}
            for key, storage in unpickler.storages.items():
                dtype = storage.dtype.newbyteorder('>') if order == b'big' else storage.dtype
                raw[key] = archive.read(f'{root}data/{key}'), dtype
            return result, raw
    except RefusedError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for damaged files
        raise RefusedError(f'is a damaged or truncated zip archive ({type(error).__name__})') from None


def _read_legacy(data: bytes) -> tuple[object, _Raw]:
    position, parts = 0, []
    for _ in range(5):
        unpickler = Unpickler(data, position)
        parts.append(unpickler.load())
        position = unpickler.position
        if len(parts) == 4:
            storages = unpickler.storages
        if parts[0] != _MAGIC:
            raise RefusedError('is a pickle, but not one of torch.save')
    _, protocol, machine, result, keys = parts
    if protocol != _PROTOCOL or not isinstance(machine, dict) or machine.get('little_endian') is not True:
        raise RefusedError('is of another protocol or of a big-endian machine')
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise RefusedError('lists other storages than it uses')
    raw: _Raw = {}
    for key in keys:
        dtype, start = storages[key].dtype, position + 8
        if data[position:start] != struct.pack('<q', storages[key].size):
            raise RefusedError('is truncated, or contradicts itself on the size of a storage')
        position = start + storages[key].size * dtype.itemsize
        if position > len(data):
            raise RefusedError('is truncated')
        raw[key] = memoryview(data)[start:position], dtype
    return result, raw


def _state_dicts(root: object) -> dict[str, dict[str, Tensor]]:
    if isinstance(root, Inert):
        raise RefusedError(f'is a pickled object of {root.name[:160]!r}, which was not made')
    by_path: dict[str, dict[str, Tensor]] = {}
    queue: collections.deque[tuple[str, int, object]] = collections.deque([('', 0, root)])
    seen: set[int] = set()  # a dict may contain itself
    while queue:
        path, depth, value = queue.popleft()
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        if isinstance(value, dict) and (
            tensors := {name: part for name, part in items if isinstance(name, str) and isinstance(part, Tensor)}
        ):
            by_path[path] = tensors
        # Real paths are not deeper or longer, and building longer paths would take quadratic time.
        if depth < _DEEPEST:
            within = (
                (key, part) for key, part in items if isinstance(key, str | int) and isinstance(part, dict | list | tuple)
            )
            queue.extend((f'{path}/{str(key)[:200]}'.lstrip('/')[:200], depth + 1, part) for key, part in within)
    if not by_path:
        raise RefusedError('has no tensors by name')
    return dict(sorted(by_path.items(), key=lambda item: -len(item[1]))[:_MOST_DICTS])


def _array(name: str, tensor: Tensor, raw: tuple[bytes | memoryview, np.dtype]) -> np.ndarray:
    """Returns the tensor as a view of its storage; refuses more elements than the storage has (a stride of 0 allows them)."""
    buffer, dtype = raw
    available, count = len(buffer) // dtype.itemsize, math.prod(tensor.shape)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if not count or count > available or last >= available or available != tensor.storage.size:
        raise RefusedError(
            f'is damaged: {name[:80]!r} claims {list(tensor.shape)} of {tensor.storage.size} elements, of which '
            f'{available} are there'
        )
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, dtype, buffer, tensor.offset * dtype.itemsize, strides)


def torch_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the bytes of a file that torch.load(weights_only=True) reads as a dict of contiguous tensors.

    The bytes depend only on the tensors.

    Args:
      tensors: float32 and int64 arrays by name.
    """
    program, file = io.BytesIO(), io.BytesIO()
    program.write(b'\x80\x02}(')
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f'model/{name}'), content)  # ZipInfo's default date is 1980-01-01

        for key, (name, array) in enumerate(tensors.items()):
            program.write(_text(name) + _tensor_program(array, str(key)))
        write('data.pkl', program.getvalue() + b'u.')
        write('byteorder', b'little')
        for key, array in enumerate(tensors.values()):
            write(f'data/{key}', array.astype(array.dtype.newbyteorder('<')).tobytes())
        write('version', b'3\n')
    return file.getvalue()


def _text(text: str) -> bytes:
    return b'X' + struct.pack('<I', len(text.encode())) + text.encode()


def _integers(values: Iterable[int]) -> bytes:
    return b'(' + b''.join(b'J' + struct.pack('<i', value) for value in values) + b't'


def _tensor_program(array: np.ndarray, key: str) -> bytes:
    """Returns a pickle program that calls _rebuild_tensor_v2(storage, 0, shape, strides, requires_grad=False, no hooks)."""
    name = {'float32': b'FloatStorage', 'int64': b'LongStorage'}[array.dtype.name]
    size = b'J' + struct.pack('<i', array.size)
    storage = b'(' + _text('storage') + b'ctorch\n' + name + b'\n' + _text(key) + _text('cpu') + size + b'tQ'
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    view = b'K\x00' + _integers(array.shape) + _integers(strides) + b'\x89ccollections\nOrderedDict\n)R'
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + view + b'tR'
