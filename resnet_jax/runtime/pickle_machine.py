"""Interprets pickles without importing or calling anything; subclasses define the meaning.

A pickle is a program that may call any Python function. Here time and memory are proportional to its length: the memo is a
dict, so a large index reserves nothing, and a claimed length is compared with the remaining bytes.

Source of the opcodes: Python's `pickletools`.
"""

import struct
from collections.abc import Callable, Mapping


class RefusedError(Exception):
    """The program is damaged or uses an unsupported feature; the message continues the name of a file."""


class PickleMachine:
    """Runs one pickle program; a subclass gives meaning to names, calls, objects, states, persistent ids and sets.

    Attributes:
      data: the program; other bytes may follow it.
      position: start of the program in `data`; after `load`, its end.
    """

    def __init__(self, data: bytes, position: int = 0):
        self.data, self.position = data, position
        self._stacks: list[list[object]] = [[]]  # a mark starts a new stack
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """Returns the object that the program makes; its containers may contain each other in cycles.

        Raises:
          RefusedError: the program is damaged or uses an unsupported feature.
        """
        try:
            while (code := self._take(1)) != b'.':
                if code not in _OPCODES:
                    raise RefusedError(f'has the unsupported pickle opcode {code!r}')
                _OPCODES[code](self)
            return self._pop()
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise RefusedError(f'has a damaged pickle ({type(error).__name__})') from None

    def find_global(self, module: object, name: object) -> object:
        """Returns the stand-in for a class or function."""
        raise RefusedError(f'names {module!r:.80}.{name!r:.80}')

    def call(self, function: object, arguments: object) -> object:
        """Returns the stand-in for the result of a call."""
        raise RefusedError('calls a function')

    def new(self, made: object, arguments: object) -> object:
        """Returns the stand-in for a new object of the class `made`."""
        return self.call(made, arguments)

    def build(self, made: object, state: object) -> None:
        """Takes the attributes of an object."""
        raise RefusedError('sets attributes')

    def refer(self, identifier: object) -> object:
        """Returns the stand-in for a persistent id."""
        raise RefusedError('refers to something outside')

    def collection(self, kind: str) -> object:
        """Returns the stand-in for a set or frozenset; does not depend on its contents."""
        raise RefusedError(f'has a {kind}')

    def set_item(self, target: object, key: object, value: object) -> None:
        """Sets an item of a dict."""
        if not isinstance(target, dict):
            raise RefusedError('sets an item of something other than a dict')
        target[key] = value

    def extend(self, target: object, values: list[object]) -> None:
        """Appends to a list."""
        if not isinstance(target, list):
            raise RefusedError('appends to something other than a list')
        target.extend(values)

    def old_text(self, text: bytes) -> object:
        """Returns the stand-in for a string of Python 2."""
        return text.decode('utf-8', 'surrogatepass')

    def _take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if size < 0 or self.position > len(self.data):
            raise RefusedError('is truncated')
        return self.data[start : self.position]

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _text(self, form: str) -> str:
        return self._take(self._number(form)).decode('utf-8', 'surrogatepass')

    def _line(self) -> str:
        end = self.data.find(b'\n', self.position, self.position + 200)
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

    def _pop_several(self, size: int) -> list[object]:
        return [self._pop() for _ in range(size)][::-1]

    def _remember(self, index: int) -> None:
        self._memo[index] = self._top()

    def _set_items(self, items: list[object]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set_item(self._top(), key, value)

    def _extend(self, values: list[object]) -> None:
        self.extend(self._top(), values)

    def _reduce(self) -> None:
        function, arguments = self._pop_several(2)
        self._push(self.call(function, arguments))

    def _new(self, operands: int) -> None:
        made, *arguments = self._pop_several(operands)
        self._push(self.new(made, arguments[0]))

    def _build(self) -> None:
        state = self._pop()
        self.build(self._top(), state)

    def _frozenset(self) -> None:
        self._pop_marked()
        self._push(self.collection('frozenset'))


_OPCODES: Mapping[bytes, Callable[[PickleMachine], object]] = {
    b'\x80': lambda p: p._take(1),  # PROTO
    b'\x95': lambda p: p._take(8),  # FRAME
    b'(': lambda p: p._stacks.append([]),
    b'0': lambda p: p._pop(),
    b'1': lambda p: p._pop_marked(),
    b'2': lambda p: p._push(p._top()),
    b'N': lambda p: p._push(None),
    b'\x88': lambda p: p._push(True),
    b'\x89': lambda p: p._push(False),
    b'J': lambda p: p._push(p._number('<i')),
    b'K': lambda p: p._push(p._number('<B')),
    b'M': lambda p: p._push(p._number('<H')),
    b'\x8a': lambda p: p._push(int.from_bytes(p._take(p._number('<B')), 'little', signed=True)),
    b'G': lambda p: p._push(p._number('>d')),
    b'X': lambda p: p._push(p._text('<I')),
    b'\x8c': lambda p: p._push(p._text('<B')),
    b'T': lambda p: p._push(p.old_text(p._take(p._number('<i')))),
    b'U': lambda p: p._push(p.old_text(p._take(p._number('<B')))),
    b'\x8d': lambda p: p._push(p._text('<Q')),
    b'C': lambda p: p._push(p._take(p._number('<B'))),
    b'B': lambda p: p._push(p._take(p._number('<I'))),
    b'\x8e': lambda p: p._push(p._take(p._number('<Q'))),
    b'\x96': lambda p: p._push(p._take(p._number('<Q'))),
    b'\x8b': lambda p: p._push(int.from_bytes(p._take(p._number('<I')), 'little', signed=True)),
    b'}': lambda p: p._push({}),
    b'\x8f': lambda p: p._push(p.collection('set')),
    b'\x90': lambda p: p._extend(p._pop_marked()),
    b'\x91': lambda p: p._frozenset(),
    b']': lambda p: p._push([]),
    b')': lambda p: p._push(()),
    b't': lambda p: p._push(tuple(p._pop_marked())),
    b'\x85': lambda p: p._push(tuple(p._pop_several(1))),
    b'\x86': lambda p: p._push(tuple(p._pop_several(2))),
    b'\x87': lambda p: p._push(tuple(p._pop_several(3))),
    b's': lambda p: p._set_items(p._pop_several(2)),
    b'u': lambda p: p._set_items(p._pop_marked()),
    b'a': lambda p: p._extend([p._pop()]),
    b'e': lambda p: p._extend(p._pop_marked()),
    b'q': lambda p: p._remember(p._number('<B')),
    b'r': lambda p: p._remember(p._number('<I')),
    b'\x94': lambda p: p._remember(len(p._memo)),
    b'h': lambda p: p._push(p._memo[p._number('<B')]),
    b'j': lambda p: p._push(p._memo[p._number('<I')]),
    b'c': lambda p: p._push(p.find_global(p._line(), p._line())),
    b'\x93': lambda p: p._push(p.find_global(*p._pop_several(2))),
    b'R': lambda p: p._reduce(),
    b'\x81': lambda p: p._new(2),
    b'\x92': lambda p: p._new(3),
    b'b': lambda p: p._build(),
    b'Q': lambda p: p._push(p.refer(p._pop())),
}
