"""A pickle machine that builds only containers and descriptions of tensors. It never imports or calls anything by name.

Pickle is a language whose programs call any Python function. This machine knows the opcodes that training checkpoints need,
and for the globals a program may name it has tables of its own. A few build tensors and dicts. Objects that training scripts
save beside them (NumPy scalars, paths, dates, settings, schedulers) become an `Inert` each, whatever the program does with
them. Any other global ends the program.

Time and memory stay in proportion to the program's length: the memo is a dict, so no index reserves anything; a length that
a program claims is compared with the bytes that are left; copies of a list are counted; and only scalars are hashed, since
the hash of nested tuples takes exponential time.

Sources of the opcodes: Python's `pickletools`; of the globals: `torch/_utils.py` and `torch/serialization.py`.
"""

import collections
import dataclasses
import re
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np


class RefusedError(Exception):
    """The program is damaged or uses something that no state dict needs; the message says what."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A pickle's description of a block of numbers, not yet checked against the available bytes."""

    dtype: np.dtype
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A description of a view of a storage, in elements; not checked either."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Inert:
    """Stands for an object that is neither a container nor a tensor. Nothing of it was made or run.

    Attributes:
      name: of its class or function, such as 'argparse.Namespace'.
    """

    name: str


@dataclasses.dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> 'Tensor | Inert':
    if isinstance(storage, Inert):  # of a type that NumPy lacks
        return storage
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise RefusedError('has a tensor without a storage')
    if len(shape) != len(strides) or len(shape) > 8 or not all(map(_is_count, (offset, *shape, *strides))):
        raise RefusedError('has a tensor with an impossible shape')
    return Tensor(storage, cast(int, offset), shape, strides)


def _parameter(tensor: object, *_: object) -> 'Tensor | Inert':
    if not isinstance(tensor, Tensor | Inert):
        raise RefusedError('has a parameter that is not a tensor')
    return tensor


def _with_attributes(function: object, _: object, arguments: object, *state: object) -> object:
    """What torch calls for a tensor of a subclass, or with attributes of its own."""
    if not isinstance(function, _Function) or not isinstance(arguments, tuple) or function is _WITH_ATTRIBUTES:
        raise RefusedError('has a tensor without a storage')
    return function.call(*arguments)


def _dict(items: object = ()) -> dict[object, object]:
    result: dict[object, object] = collections.OrderedDict()
    if not isinstance(items, list | tuple):
        raise RefusedError('has a dict of something other than pairs')
    for item in items:
        key, value = item
        _set(result, key, value)
    return result


_DTYPES = {
    'DoubleStorage': np.float64,
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'BFloat16Storage': jnp.bfloat16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}


def _member(owner: object, _: object) -> Inert:
    """A member of a class, as Python 3.11 pickles those of enumerations."""
    harmless = ('uuid.SafeUUID', 'zoneinfo.ZoneInfo')
    if not isinstance(owner, Inert) or (owner.name.partition('.')[0] in _STANDARD and owner.name not in harmless):
        raise RefusedError('asks for an attribute, which was not looked up')
    return owner


_DICT, _WITH_ATTRIBUTES = _Function(_dict), _Function(_with_attributes)
_GLOBALS: dict[str, _Function | np.dtype] = {
    'collections.OrderedDict': _DICT,
    'builtins.getattr': _Function(_member),
    '__builtin__.getattr': _Function(_member),
    'torch._utils._rebuild_tensor': _Function(_tensor),
    'torch._utils._rebuild_tensor_v2': _Function(_tensor),
    'torch._utils._rebuild_parameter': _Function(_parameter),
    'torch._utils._rebuild_parameter_with_state': _Function(_parameter),
    'torch._tensor._rebuild_from_type_v2': _WITH_ATTRIBUTES,
    **{f'torch.{name}': np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
# Of the standard library only these classes are inert; a name with a capital of any other package is a class, and inert.
_INERT = re.compile(
    r'collections\.(Counter|defaultdict|deque)|types\.SimpleNamespace|argparse\.Namespace|pathlib(\._local)?\.\w*Path'
    r'|datetime\.(datetime|date|time|timedelta|timezone)|zoneinfo\.ZoneInfo(\._unpickle)?|decimal\.Decimal|fractions\.Fraction'
    r'|uuid\.(UUID|SafeUUID)|_codecs\.encode|copy_?reg\._reconstructor'
    r'|(__builtin__|builtins)\.(set|frozenset|bytes|bytearray|complex|range|xrange|slice|list|dict|tuple|int|long|float|str|bool'
    r'|object|unicode|NoneType)'
    r'|torch\.(\w*(int|float|bool|complex|qu?int)\w*|half|double|short|long|strided|sparse_\w+|per_\w+|device|contiguous_format'
    r'|preserve_format|channels_last(_3d)?)|torch\._utils\._rebuild_\w+|torch\.serialization\._get_(layout|dtype)'
    r'|numpy\.(ndarray|dtype|void|str_|bytes_|object_|(bool|u?int|float|complex|datetime|timedelta)\d*_?)'
    r'|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.random(\.\w+)?\.__\w+'
)
_CLASS = re.compile(r'(\w+)(\.\w+)*\.[A-Z]\w*')
_STANDARD = sys.stdlib_module_names | {'__builtin__', 'copy_reg'}


def _find_global(module: object, name: object) -> object:
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError('names a function by something other than text')
    path = f'{module}.{name}'
    if path in _GLOBALS:
        return _GLOBALS[path]
    a_class = _CLASS.fullmatch(path)
    if _INERT.fullmatch(path) or (a_class and a_class[1] not in _STANDARD and '.' not in name):
        return Inert(path)
    raise RefusedError(f'asks for {path[:160]!r}, which was not run')


def _storage(identifier: object) -> Storage | Inert:
    """The meaning of a persistent id: 'storage', type, key, device, number of elements and, in old files, a view."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[5:] not in ((), (None,)):
        raise RefusedError('refers to something other than a storage')
    kind, dtype, key, _, size = identifier[:5]
    if kind == 'storage' and isinstance(dtype, Inert):
        return dtype
    if kind != 'storage' or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(size):
        raise RefusedError('refers to something other than a storage')
    return Storage(dtype, key, size)


def _set(target: object, key: object, value: object) -> None:
    if isinstance(target, Inert):
        return
    if not isinstance(target, dict):
        raise RefusedError('sets an item of something other than a dict')
    if isinstance(key, tuple | Inert | np.dtype) or (type(key) is int and abs(key) >= 2**63):
        key = Inert('a key')
    if not isinstance(key, str | int | float | bytes | Inert | None):
        raise RefusedError('has something as a key that cannot be one')
    target[key] = value


class Unpickler:
    """Runs one pickle program.

    Attributes:
      position: start of the program in `data` and, after `load`, its end.
      storages: the storages that the program refers to, by key.
    """

    def __init__(self, data: bytes, position: int = 0):
        self._data, self.position = data, position
        self.storages: dict[str, Storage] = {}
        self._stacks: list[list[object]] = [[]]  # a mark starts a new one
        self._memo: dict[int, object] = {}
        self._copied = 0  # pairs

    def load(self) -> object:
        """Returns the object: scalars, list, tuple, dict, `Tensor`, `Storage` and `Inert`, nested; maybe in circles.

        Raises:
          RefusedError: the program is damaged or uses something that no state dict needs.
        """
        try:
            while (code := self._take(1)) != b'.':
                if code not in _OPCODES:
                    raise RefusedError(f'has the pickle opcode {code!r}, which no state dict needs')
                _OPCODES[code](self)
            return self._pop()
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise RefusedError(f'has a damaged pickle ({type(error).__name__})') from None

    def _take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise RefusedError('is truncated')
        return self._data[start : self.position]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _text(self, form: str) -> str:
        return self._take(self._number(form)).decode('utf-8', 'surrogatepass')

    def _line(self) -> str:
        end = self._data.find(b'\n', self.position, self.position + 200)
        if end < 0:
            raise RefusedError('has a global without an end')
        line = self._take(end - self.position)
        self.position += 1
        return line.decode()

    def _push(self, value: object) -> None:
        self._stacks[-1].append(value)

    def _pop(self) -> object:
        return self._stacks[-1].pop()

    def _pop_marked(self) -> list[object]:
        if len(self._stacks) < 2:
            raise RefusedError('has a damaged pickle (no mark)')
        return self._stacks.pop()

    def _top(self) -> object:
        return self._stacks[-1][-1]

    def _pop_tuple(self, size: int) -> None:
        self._push(tuple([self._pop() for _ in range(size)][::-1]))

    def _frozenset(self) -> None:
        self._pop_marked()
        self._push(Inert('frozenset'))

    def _remember(self, index: int) -> None:
        self._memo[index] = self._top()

    def _set_items(self, items: list[object]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self._top(), key, value)

    def _append(self, values: list[object]) -> None:
        top = self._top()
        if isinstance(top, Inert):
            return
        if not isinstance(top, list):
            raise RefusedError('appends to something other than a list')
        top.extend(values)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if isinstance(function, Inert):
            return self._push(function)
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise RefusedError('calls something that is not a function')
        if function is _DICT and arguments and isinstance(arguments[0], list | tuple):
            self._copied += len(arguments[0])
            if self._copied > len(self._data) // 4:  # no pair takes fewer bytes
                raise RefusedError('copies one list into many dicts')
        self._push(function.call(*arguments))

    def _new(self, operands: int) -> None:
        """A new object of a class."""
        *_, made = [self._pop() for _ in range(operands)]
        if made is _DICT:
            made = _dict()
        elif not isinstance(made, Inert):
            raise RefusedError('makes an object of something that is not a class')
        self._push(made)

    def _refer(self) -> None:
        storage = _storage(self._pop())
        if isinstance(storage, Inert):
            return self._push(storage)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedError('contradicts itself on the size or type of a storage')
        self._push(storage)

    def _build(self) -> None:
        """Attributes of an object, such as a state dict's `_metadata`, which nothing here needs."""
        self._pop()
        if not isinstance(self._top(), collections.OrderedDict | Tensor | Inert):
            raise RefusedError('sets attributes of something other than a state dict')


_OPCODES: Mapping[bytes, Callable[[Unpickler], object]] = {
    b'\x80': lambda u: u._take(1),  # PROTO
    b'\x95': lambda u: u._take(8),  # FRAME
    b'(': lambda u: u._stacks.append([]),
    b'0': lambda u: u._pop(),
    b'1': lambda u: u._pop_marked(),
    b'2': lambda u: u._push(u._top()),
    b'N': lambda u: u._push(None),
    b'\x88': lambda u: u._push(True),
    b'\x89': lambda u: u._push(False),
    b'J': lambda u: u._push(u._number('<i')),
    b'K': lambda u: u._push(u._number('<B')),
    b'M': lambda u: u._push(u._number('<H')),
    b'\x8a': lambda u: u._push(int.from_bytes(u._take(u._number('<B')), 'little', signed=True)),
    b'G': lambda u: u._push(u._number('>d')),
    b'X': lambda u: u._push(u._text('<I')),
    b'\x8c': lambda u: u._push(u._text('<B')),
    b'T': lambda u: u._push(u._text('<I')),
    b'U': lambda u: u._push(u._text('<B')),
    b'\x8d': lambda u: u._push(u._text('<Q')),
    b'C': lambda u: u._push(u._take(u._number('<B'))),
    b'B': lambda u: u._push(u._take(u._number('<I'))),
    b'\x8e': lambda u: u._push(u._take(u._number('<Q'))),
    b'\x96': lambda u: u._push(u._take(u._number('<Q'))),
    b'\x8b': lambda u: u._push(int.from_bytes(u._take(u._number('<I')), 'little', signed=True)),
    b'}': lambda u: u._push({}),
    b'\x8f': lambda u: u._push(Inert('set')),
    b'\x90': lambda u: u._append(u._pop_marked()),
    b'\x91': lambda u: u._frozenset(),
    b']': lambda u: u._push([]),
    b')': lambda u: u._push(()),
    b't': lambda u: u._push(tuple(u._pop_marked())),
    b'\x85': lambda u: u._pop_tuple(1),
    b'\x86': lambda u: u._pop_tuple(2),
    b'\x87': lambda u: u._pop_tuple(3),
    b's': lambda u: u._set_items([u._pop(), u._pop()][::-1]),
    b'u': lambda u: u._set_items(u._pop_marked()),
    b'a': lambda u: u._append([u._pop()]),
    b'e': lambda u: u._append(u._pop_marked()),
    b'q': lambda u: u._remember(u._number('<B')),
    b'r': lambda u: u._remember(u._number('<I')),
    b'\x94': lambda u: u._remember(len(u._memo)),
    b'h': lambda u: u._push(u._memo[u._number('<B')]),
    b'j': lambda u: u._push(u._memo[u._number('<I')]),
    b'c': lambda u: u._push(_find_global(u._line(), u._line())),
    b'\x93': lambda u: u._push(_find_global(*[u._pop(), u._pop()][::-1])),
    b'R': lambda u: u._reduce(),
    b'\x81': lambda u: u._new(2),
    b'\x92': lambda u: u._new(3),
    b'b': lambda u: u._build(),
    b'Q': lambda u: u._refer(),
}
