"""Reads the pickles of CIFAR's python archives without running what they name.

A batch is a dict with 'data', a NumPy array uint8 [n, 3072] of red, green and blue planes, and lists of labels; 'batches.meta'
and 'meta' hold lists of class names. Python 2 wrote all of them in protocol 2, whose text is bytes here. A program of a pickle
names functions to call; here a name and a call only become records of what was named, and of what it would be called with.

Source of the opcodes: Python's `pickletools`.
"""

import dataclasses
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_IMAGE_BYTES = 3072


class NotCifarError(Exception):
    """A pickle is damaged or holds something else; the message says what was found."""


@dataclasses.dataclass(eq=False)
class _Call:
    """A name and, where the program calls it, the arguments and the state that the result would get. Nothing was run."""

    name: str
    arguments: object = None
    state: object = None


def read_batch(data: bytes, label_keys: Sequence[str], count: int) -> np.ndarray:
    """Returns the records of a batch in the form of a .bin file: uint8 [count, labels + 3072].

    Raises:
        NotCifarError: it is damaged or something else.
    """
    batch = _load(data)
    # numpy.ndarray.__reduce__: a call of _reconstruct, and the state (version, shape, dtype, Fortran order, bytes).
    array = batch.get(b'data')
    state = array.state if isinstance(array, _Call) and array.name.endswith('.multiarray._reconstruct') else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Call) or not isinstance(state[4], bytes):
        raise NotCifarError('no array under the key data')
    _, shape, dtype, fortran, planes = state
    if dtype.name != 'numpy.dtype' or not isinstance(dtype.arguments, tuple) or dtype.arguments[:1] != (b'u1',):
        raise NotCifarError('an array of something other than bytes under the key data')
    if shape != (count, _IMAGE_BYTES) or fortran or len(planes) != count * _IMAGE_BYTES:
        raise NotCifarError(f'data of shape {shape!r:.60} instead of {(count, _IMAGE_BYTES)}')
    columns = []
    for key in label_keys:
        labels = batch.get(key.encode())
        if not isinstance(labels, list) or len(labels) != count or not all(type(x) is int and 0 <= x < 256 for x in labels):
            raise NotCifarError(f'no list of {count} labels from 0 under the key {key}')
        columns.append(np.array(labels, np.uint8)[:, None])
    return np.concatenate([*columns, np.frombuffer(planes, np.uint8).reshape(count, _IMAGE_BYTES)], axis=1)


def read_names(data: bytes, keys: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the lists of class names under some keys: `keys` is {key in the result: key in the pickle}.

    Raises:
        NotCifarError: it is damaged or something else.
    """
    meta, result = _load(data), {}
    for key, theirs in keys.items():
        names = meta.get(theirs.encode())
        if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
            raise NotCifarError(f'no list of names under the key {theirs}')
        result[key] = [name.decode('utf-8', 'replace') for name in names]
    return result


def _load(data: bytes) -> dict[object, object]:
    try:
        value = _Program(data).run()
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise NotCifarError(f'a damaged pickle ({type(error).__name__})') from None
    if not isinstance(value, dict):
        raise NotCifarError(f'a {type(value).__name__} instead of a dict')
    return value


class _Program:
    """Runs a pickle program of protocol 2. Time and memory are in proportion to its length."""

    def __init__(self, data: bytes):
        self._data, self._position = data, 0
        self._stacks: list[list[object]] = [[]]  # a mark starts a new one
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        while (code := self.take(1)) != b'.':
            if code not in _OPCODES:
                raise NotCifarError(f'the pickle opcode {code!r}, which no batch has')
            _OPCODES[code](self)
        return self.pop()

    def take(self, size: int) -> bytes:
        start, self._position = self._position, self._position + size
        if size < 0 or self._position > len(self._data):
            raise NotCifarError('a truncated pickle')
        return self._data[start : self._position]

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def push(self, value: object) -> None:
        self._stacks[-1].append(value)

    def pop(self) -> object:
        return self._stacks[-1].pop()

    def mark(self) -> None:
        self._stacks.append([])

    def pop_marked(self) -> list[object]:
        return self._stacks.pop()

    def remember(self, index: int) -> None:
        self._memo[index] = self._stacks[-1][-1]

    def recall(self, index: int) -> None:
        self.push(self._memo[index])

    def pack(self, size: int) -> None:
        self.push(tuple([self.pop() for _ in range(size)][::-1]))

    def name(self) -> None:
        lines = []
        for _ in range(2):
            end = self._data.index(b'\n', self._position, self._position + 200)
            lines.append(self.take(end - self._position).decode())
            self.take(1)
        self.push(_Call('.'.join(lines)))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Call):
            raise NotCifarError('a call of something that has no name')
        self.push(_Call(function.name, arguments))

    def build(self) -> None:
        state, made = self.pop(), self._stacks[-1][-1]
        if not isinstance(made, _Call):
            raise NotCifarError('a state of something that has none')
        made.state = state

    def extend(self, values: list[object]) -> None:
        top = self._stacks[-1][-1]
        if not isinstance(top, list):
            raise NotCifarError('items of something other than a list')
        top.extend(values)

    def set_items(self, items: list[object]) -> None:
        top = self._stacks[-1][-1]
        if not isinstance(top, dict) or not all(isinstance(key, bytes) for key in items[::2]):
            raise NotCifarError('items of something other than a dict with texts as keys')
        top.update(zip(items[::2], items[1::2], strict=True))


_OPCODES: Mapping[bytes, Callable[[_Program], object]] = {
    b'\x80': lambda p: p.take(1),  # PROTO
    b'(': lambda p: p.mark(),
    b'N': lambda p: p.push(None),
    b'\x88': lambda p: p.push(True),
    b'\x89': lambda p: p.push(False),
    b'J': lambda p: p.push(p.number('<i')),
    b'K': lambda p: p.push(p.number('<B')),
    b'M': lambda p: p.push(p.number('<H')),
    b'T': lambda p: p.push(p.take(p.number('<i'))),
    b'U': lambda p: p.push(p.take(p.number('<B'))),
    b'}': lambda p: p.push({}),
    b']': lambda p: p.push([]),
    b')': lambda p: p.push(()),
    b't': lambda p: p.push(tuple(p.pop_marked())),
    b'\x85': lambda p: p.pack(1),
    b'\x86': lambda p: p.pack(2),
    b'\x87': lambda p: p.pack(3),
    b's': lambda p: p.set_items([p.pop(), p.pop()][::-1]),
    b'u': lambda p: p.set_items(p.pop_marked()),
    b'a': lambda p: p.extend([p.pop()]),
    b'e': lambda p: p.extend(p.pop_marked()),
    b'q': lambda p: p.remember(p.number('<B')),
    b'r': lambda p: p.remember(p.number('<I')),
    b'h': lambda p: p.recall(p.number('<B')),
    b'j': lambda p: p.recall(p.number('<I')),
    b'c': lambda p: p.name(),
    b'R': lambda p: p.call(),
    b'b': lambda p: p.build(),
}
