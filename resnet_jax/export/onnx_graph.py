"""`Graph`: an ONNX graph that is being built, and `Value`: a value in the graph.

ONNX convolves `[batch, channels, height, width]`. A value is stored in the order of axes in which it was computed, and is
transposed only for operations that need another order.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from resnet_jax.errors import ExportError


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the jaxpr.

    Attributes:
      shape: the shape in the jaxpr; the size of the batch is symbolic.
      sizes: the sizes of the stored value, by the jaxpr's axes; 1 for axes that are not broadcast yet.
      order: the jaxpr's axes in the order in which they are stored.
      array: the stored value if it is known, otherwise None.
      name: its name in the graph; a known value gets a name on first use.
    """

    shape: tuple[object, ...]
    sizes: tuple[object, ...]
    order: tuple[int, ...]
    array: np.ndarray | None = None
    name: str = ''


def known(array: ArrayLike, name: str = '') -> Value:
    """Returns the value of a known array; `name` is its future name in the graph."""
    array = np.asarray(array)
    return Value(array.shape, array.shape, tuple(range(array.ndim)), array, name)


def stored(name: str, shape: Sequence[object], order: Sequence[int] | None = None) -> Value:
    """Returns the value of a node's output, stored in an order of axes, by default that of the jaxpr."""
    return Value(tuple(shape), tuple(shape), tuple(range(len(shape)) if order is None else order), name=name)


def refuse(problem: str) -> ExportError:
    """Returns the error for a network that has a problem."""
    return ExportError(f'the network {problem}, which cannot be converted to ONNX; expected the format stablehlo')


class Graph:
    """A graph that is being built."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()
        self.scope = ''  # scope of Flax modules

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f'{name}_{number}'
        self._names.add(candidate)
        return candidate

    def node(self, kind: str, inputs: Sequence[str], output: str = '', **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = self._unique('/'.join(filter(None, (self.scope, kind))))
        output = output or name
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def constant(self, array: np.ndarray, name: str) -> str:
        """Adds a constant and returns its name."""
        name = self._unique(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Adds a constant int64 vector and returns its name."""
        return self.constant(np.asarray(values, np.int64), '/'.join(filter(None, (self.scope, 'integers'))))

    def name(self, value: Value, order: Sequence[int] | None = None) -> str:
        """Returns the name of a value, stored in an order of axes, by default `value.order`."""
        order = value.order if order is None else tuple(order)
        permutation = [value.order.index(axis) for axis in order]
        if value.array is not None:
            return self.constant(value.array.transpose(permutation), value.name or 'constant')
        return value.name if order == value.order else self.node('Transpose', [value.name], perm=permutation)

    def whole(self, value: Value) -> Value:
        """Returns the value after all broadcasts.

        Raises:
          ExportError: the value would be broadcast along the batch axis.
        """
        if value.sizes == value.shape:
            return value
        if any(not isinstance(n, int) and n != size for n, size in zip(value.shape, value.sizes, strict=True)):
            raise refuse('makes an array for each image that depends on none')
        sizes = [n if isinstance(n, int) else 1 for n in (value.shape[axis] for axis in value.order)]
        return stored(self.node('Expand', [self.name(value), self.integers(sizes)]), value.shape, value.order)

    def plain(self, value: Value) -> str:
        """Returns the name of a value after all broadcasts, stored as in the jaxpr."""
        return self.name(self.whole(value), range(len(value.shape)))
