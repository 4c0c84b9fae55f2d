"""A pickle machine that builds only containers and descriptions of tensors. It never imports or calls anything by name.

Pickle programs can call any Python function. This machine knows only the opcodes that state dicts need, and looks up globals
in its own table; anything else stops the program before it takes effect. Memory use stays proportional to the program's
length: the memo is a dict, so a large index allocates nothing; claimed lengths are compared with the remaining bytes; and dict
keys must be strings or integers, because hashing nested tuples can take exponential time.

Sources of the opcodes: Python's `pickletools`; of the globals: `torch/_utils.py` and `torch/serialization.py`.
"""

import collections
import dataclasses
import struct
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


@dataclasses.dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise RefusedError('has a tensor without a storage')
    if len(shape) != len(strides) or len(shape) > 8 or not all(map(_is_count, (offset, *shape, *strides))):
        raise RefusedError('has a tensor with an impossible shape')
    return Tensor(storage, cast(int, offset), shape, strides)


def _parameter(tensor: object, *_: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise RefusedError('has a parameter that is not a tensor')
    return tensor


def _ordered_dict(*arguments: Any) -> dict[object, object]:
    result: dict[object, object] = collections.OrderedDict()
    for key, value in arguments[0] if arguments else ():
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

_GLOBALS: dict[tuple[object, object], _Function | np.dtype] = {
    ('collections', 'OrderedDict'): _Function(_ordered_dict),
    ('torch._utils', '_rebuild_tensor'): _Function(_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): _Function(_tensor),
    ('torch._utils', '_rebuild_parameter'): _Function(_parameter),
    **{('torch', name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
}


def _find_global(module: object, name: object) -> object:
    try:
        return _GLOBALS[module, name]
    except (KeyError, TypeError):
        raise RefusedError(f'asks for {f"{module}.{name}"[:160]!r}, which was not run') from None


def _storage(identifier: object) -> Storage:
    """Returns the storage of a persistent id: 'storage', type, key, device, number of elements and, in old files, a view."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[5:] not in ((), (None,)):
        raise RefusedError('refers to something other than a storage')
    kind, dtype, key, _, size = identifier[:5]
    if kind != 'storage' or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(size):
        raise RefusedError('refers to something other than a storage')
    return Storage(dtype, key, size)


def _set(target: object, key: object, value: object) -> None:
    if not isinstance(target, dict) or type(key) not in (str, int):
        raise RefusedError('sets an item of something other than a dict by string or integer')
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

    def load(self) -> object:
        """Returns the object: None, bool, int, float, str, list, tuple, dict, `Tensor` or `Storage`, nested, maybe cyclic.

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

    def _remember(self, index: int) -> None:
        self._memo[index] = self._top()

    def _set_items(self, items: list[object]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self._top(), key, value)

    def _append(self, values: list[object]) -> None:
        top = self._top()
        if not isinstance(top, list):
            raise RefusedError('appends to something other than a list')
        top.extend(values)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise RefusedError('calls something that is not a function')
        self._push(function.call(*arguments))

    def _refer(self) -> None:
        storage = _storage(self._pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedError('contradicts itself on the size or type of a storage')
        self._push(storage)

    def _build(self) -> None:
        """Ignores attributes of a state dict, i.e. `_metadata`."""
        self._pop()
        if not isinstance(self._top(), collections.OrderedDict):
            raise RefusedError('sets attributes of something other than a state dict')


_OPCODES: Mapping[bytes, Callable[[Unpickler], object]] = {
    b'\x80': lambda u: u._take(1),  # PROTO
    b'\x95': lambda u: u._take(8),  # FRAME
    b'(': lambda u: u._stacks.append([]),
    b'0': lambda u: u._pop(),
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
    b'}': lambda u: u._push({}),
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
    b'b': lambda u: u._build(),
    b'Q': lambda u: u._refer(),
}
