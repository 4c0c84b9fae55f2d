"""Reads the pickles of training checkpoints into containers and descriptions of tensors.

Tables list the globals that a pickle may name. A few of them build tensors and dicts. Globals for other objects that training
scripts save (NumPy scalars, paths, dates, settings, schedulers) each become an `Inert`, whatever the pickle does with them. Any
other global is refused. Copies of a list are counted, and only scalars are hashed, because the hash of nested tuples takes
exponential time.

Source of the globals: `torch/_utils.py` and `torch/serialization.py`.
"""

import collections
import dataclasses
import re
import sys
from collections.abc import Callable
from typing import cast

import jax.numpy as jnp
import numpy as np

from resnet_jax.runtime.pickle_machine import PickleMachine, RefusedError


@dataclasses.dataclass(frozen=True)
class Storage:
    """A pickle's description of a block of numbers, not yet compared with the available bytes."""

    dtype: np.dtype
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A pickle's description of a view of a storage, in elements; not yet compared with the available bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Inert:
    """Stands for an object that is neither a container nor a tensor. The object is not created.

    Attributes:
      name: name of the object's class or function, such as 'argparse.Namespace'.
    """

    name: str


@dataclasses.dataclass(frozen=True)
class _Function:
    call: Callable[..., object]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> 'Tensor | Inert':
    if isinstance(storage, Inert):  # NumPy lacks the storage's dtype
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


def _dict(items: object = ()) -> dict[object, object]:
    result: dict[object, object] = collections.OrderedDict()
    if not isinstance(items, list | tuple):
        raise RefusedError('has a dict of something other than pairs')
    for item in items:
        key, value = item
        _set(result, key, value)
    return result


def _defaultdict(factory: object = None, items: object = ()) -> dict[object, object]:
    return _dict(items)


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
    """Returns a member of a class; Python 3.11 pickles members of enumerations in this way."""
    harmless = ('uuid.SafeUUID', 'zoneinfo.ZoneInfo')
    if not isinstance(owner, Inert) or (owner.name.partition('.')[0] in _STANDARD and owner.name not in harmless):
        raise RefusedError('asks for an attribute, which was not looked up')
    return owner


_DICTS = (_Function(_dict), _Function(_defaultdict))
# Calls another function, for subclasses of tensors and for tensors with attributes: see `Unpickler.call`.
_WITH_ATTRIBUTES = _Function(lambda function, type_, arguments, *state: None)
_LONGEST_PATH = 200  # characters of a global; the patterns below take quadratic time
_GLOBALS: dict[str, _Function | np.dtype] = {
    'collections.OrderedDict': _DICTS[0],
    'collections.defaultdict': _DICTS[1],
    'builtins.getattr': _Function(_member),
    '__builtin__.getattr': _Function(_member),
    'torch._utils._rebuild_tensor': _Function(_tensor),
    'torch._utils._rebuild_tensor_v2': _Function(_tensor),
    'torch._utils._rebuild_parameter': _Function(_parameter),
    'torch._utils._rebuild_parameter_with_state': _Function(_parameter),
    'torch._tensor._rebuild_from_type_v2': _WITH_ATTRIBUTES,
    **{f'torch.{name}': np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
# In the standard library only these classes are inert. In any other package a capitalised name is a class, and inert.
_INERT = re.compile(
    r'collections\.(Counter|deque)|types\.SimpleNamespace|argparse\.Namespace|pathlib(\._local)?\.\w*Path'
    r'|datetime\.(datetime|date|time|timedelta|timezone)|zoneinfo\.ZoneInfo(\._unpickle)?|decimal\.Decimal|fractions\.Fraction'
    r'|uuid\.(UUID|SafeUUID)|_codecs\.encode|copy_?reg\._reconstructor|functools\.partial|http\.HTTP\w+|ipaddress\.IPv\w+'
    r'|re\._compile|random\.Random|enum\.\w*(Enum|Flag)'
    r'|(__builtin__|builtins)\.(set|frozenset|bytes|bytearray|complex|range|xrange|slice|list|dict|tuple|int|long|float|str|bool'
    r'|object|unicode|NoneType)'
    r'|torch\.(\w*(int|float|bool|complex|qu?int|bits)\w*|half|double|short|long|strided|sparse_\w+|per_\w+|device|contiguous_format'
    r'|preserve_format|channels_last(_3d)?)|torch\._utils\._rebuild_\w+|torch\.serialization\._get_(layout|dtype)'
    r'|numpy\.(ndarray|dtype|void|str_|bytes_|object_|(bool|u?int|float|complex|datetime|timedelta)\d*_?)'
    r'|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.ma\.core\._mareconstruct|numpy\.random(\.\w+)?\.__\w+'
)
_CLASS = re.compile(r'(\w+)(\.\w+)*\.[A-Z]\w*')
_STANDARD = sys.stdlib_module_names | {'__builtin__', 'copy_reg'}


def _find_global(module: object, name: object) -> object:
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError('names a function by something other than text')
    path = f'{module}.{name}'
    if path in _GLOBALS:
        return _GLOBALS[path]
    if len(path) > _LONGEST_PATH:
        raise RefusedError(f'asks for {path[:160]!r}..., which was not run')
    a_class = _CLASS.fullmatch(path)
    if _INERT.fullmatch(path) or (a_class and a_class[1] not in _STANDARD and '.' not in name):
        return Inert(path)
    raise RefusedError(f'asks for {path[:160]!r}, which was not run')


def _storage(identifier: object) -> Storage | Inert:
    """Returns the storage of a persistent id: 'storage', type, key, device, number of elements and, in old files, a view."""
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
    if isinstance(key, tuple | Inert | Tensor | Storage | _Function | np.dtype) or (type(key) is int and abs(key) >= 2**63):
        key = Inert('a key')
    if not isinstance(key, str | int | float | bytes | Inert | None):
        raise RefusedError('has something as a key that cannot be one')
    target[key] = value


class Unpickler(PickleMachine):
    """Runs one program; `load` returns nested lists, tuples and dicts of scalars, `Tensor`, `Storage` and `Inert`.

    Attributes:
      storages: the storages that the program refers to, by key.
    """

    def __init__(self, data: bytes, position: int = 0):
        super().__init__(data, position)
        self.storages: dict[str, Storage] = {}
        self._copied = 0  # number of copied pairs

    def find_global(self, module: object, name: object) -> object:
        return _find_global(module, name)

    def call(self, function: object, arguments: object) -> object:
        if isinstance(function, Inert):
            return function
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise RefusedError('calls something that is not a function')
        if function is _WITH_ATTRIBUTES:
            if len(arguments) < 3 or not isinstance(arguments[0], _Function) or arguments[0] is _WITH_ATTRIBUTES:
                raise RefusedError('has a tensor without a storage')
            return self.call(arguments[0], arguments[2])
        if function in _DICTS:
            self._copied += sum(len(items) for items in arguments if isinstance(items, list | tuple))
            if self._copied > len(self.data) // 4:  # no pair takes fewer bytes
                raise RefusedError('copies one list into many dicts')
        return function.call(*arguments)

    def new(self, made: object, arguments: object) -> object:
        if made in _DICTS:
            return _dict()
        if not isinstance(made, Inert):
            raise RefusedError('makes an object of something that is not a class')
        return made

    def build(self, made: object, state: object) -> None:
        # Ignores attributes of an object, such as a state dict's `_metadata`: they are not needed here.
        if not isinstance(made, collections.OrderedDict | Tensor | Inert):
            raise RefusedError('sets attributes of something other than a state dict')

    def refer(self, identifier: object) -> Storage | Inert:
        storage = _storage(identifier)
        if isinstance(storage, Storage) and self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedError('contradicts itself on the size or type of a storage')
        return storage

    def collection(self, kind: str) -> Inert:
        return Inert(kind)

    def set_item(self, target: object, key: object, value: object) -> None:
        _set(target, key, value)

    def extend(self, target: object, values: list[object]) -> None:
        if not isinstance(target, Inert):
            super().extend(target, values)
