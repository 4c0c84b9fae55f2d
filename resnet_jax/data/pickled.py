"""Reads the pickles of CIFAR's python archives without calling any function.

A batch is a dict with 'data', a NumPy array uint8 [n, 3072] of red, green and blue planes, and lists of labels; 'batches.meta'
and 'meta' contain lists of class names. Python 2 wrote the pickles in protocol 2; its text becomes bytes here. A pickle names
functions to call; here each name and each call become a record of the name and the arguments, and nothing is called.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax.runtime.pickle_machine import PickleMachine, RefusedError

_IMAGE_BYTES = 3072


class NotCifarError(Exception):
    """A pickle is damaged or has other contents; the message says what was found."""


@dataclasses.dataclass(eq=False)
class _Call:
    """A name in a pickle and, if the pickle calls it, the arguments and the state of the result. The call was not made."""

    name: str
    arguments: object = None
    state: object = None


def read_batch(data: bytes, label_keys: Sequence[str], count: int) -> np.ndarray:
    """Returns the records of a batch in the form of a .bin file: uint8 [count, labels + 3072].

    Raises:
      NotCifarError: the pickle is damaged or has other contents.
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
      NotCifarError: the pickle is damaged or has other contents.
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
        value = _Reader(data).load()
    except RefusedError as error:
        raise NotCifarError(f'a file that {error}') from None
    if not isinstance(value, dict):
        raise NotCifarError(f'a {type(value).__name__} instead of a dict')
    return value


class _Reader(PickleMachine):
    """Reads the pickles of Python 2, whose strings are bytes."""

    def find_global(self, module: object, name: object) -> _Call:
        return _Call(f'{module}.{name}')

    def call(self, function: object, arguments: object) -> _Call:
        if not isinstance(function, _Call):
            raise RefusedError('calls something that has no name')
        return _Call(function.name, arguments)

    def build(self, made: object, state: object) -> None:
        if not isinstance(made, _Call):
            raise RefusedError('sets attributes of something that has none')
        made.state = state

    def set_item(self, target: object, key: object, value: object) -> None:
        if not isinstance(key, bytes):
            raise RefusedError('has a key that is not text')
        super().set_item(target, key, value)

    def old_text(self, text: bytes) -> bytes:
        return text
