"""Converts a JAX function to an ONNX graph, one operation of its jaxpr after the other.

It knows the operations of convolutional networks and names any other. It needs no more than jaxprs, which JAX documents, and
onnx's own helpers, so that it does not wait for a converter to follow each version of JAX.

What depends on no input is computed here and becomes a constant. ONNX convolves `[batch, channels, height, width]`: a value is
stored in whatever order of axes it was computed, and transposed only where something needs another.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Jaxpr, JaxprEqn, Var
from onnx import TensorProto, helper, numpy_helper

from resnet_jax.errors import ExportError
from resnet_jax.typing import PyTree

_Aval = jax.core.ShapedArray
_OPSET, _IR_VERSION = 18, 8  # of 2022, for onnxruntime 1.14 and later

_ELEMENTWISE = {
    'abs': 'Abs',
    'add': 'Add',
    'add_any': 'Add',
    'and': 'And',
    'ceil': 'Ceil',
    'cos': 'Cos',
    'div': 'Div',
    'eq': 'Equal',
    'erf': 'Erf',
    'exp': 'Exp',
    'floor': 'Floor',
    'ge': 'GreaterOrEqual',
    'gt': 'Greater',
    'le': 'LessOrEqual',
    'log': 'Log',
    'logistic': 'Sigmoid',
    'lt': 'Less',
    'max': 'Max',
    'min': 'Min',
    'mul': 'Mul',
    'neg': 'Neg',
    'not': 'Not',
    'or': 'Or',
    'pow': 'Pow',
    'sign': 'Sign',
    'sin': 'Sin',
    'sqrt': 'Sqrt',
    'sub': 'Sub',
    'tanh': 'Tanh',
}
_REDUCE = {'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin', 'reduce_prod': 'ReduceProd', 'reduce_sum': 'ReduceSum'}
# On constants. JAX, which computes the rest of them, compiles every operation for every shape.
_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    'add': np.add,
    'div': np.divide,
    'mul': np.multiply,
    'rsqrt': lambda x: 1 / np.sqrt(x),
    'sub': np.subtract,
}
_UNCHANGED = ('copy', 'copy_p', 'reduce_precision', 'stop_gradient')
_LOOPS = ('cond', 'scan', 'while')
_RESHAPES = ('broadcast_in_dim', 'convert_element_type', 'reshape', 'squeeze', 'transpose')  # keep a constant's name


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value of the jaxpr.

    Attributes:
      shape: in the jaxpr; the size of the batch is open.
      sizes: of the stored value, by the jaxpr's axes; 1 where it is still to be broadcast.
      order: the jaxpr's axes as they are stored.
      array: the stored value where it is known, else None.
      name: its name in the graph; of a known one, the name it will get.
    """

    shape: tuple[Any, ...]
    sizes: tuple[Any, ...]
    order: tuple[int, ...]
    array: np.ndarray | None = None
    name: str = ''


def convert(
    function: Callable[[PyTree, jax.Array], jax.Array],
    constants: PyTree,
    image_shape: Sequence[int],
    *,
    name: str,
    input_name: str,
    output_name: str,
) -> onnx.ModelProto:
    """Returns the ONNX model of `function(constants, images)` with float32 results, for uint8 `[batch, *image_shape]`.

    Args:
      constants: arrays, which the model contains under the names of their leaves.
      name: of the graph.

    Raises:
      ExportError: the function has an operation that cannot be converted.
    """
    (batch,) = jax.export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *image_shape), np.uint8)
    traced = jax.jit(function).trace(constants, images)
    (output,) = jax.tree.leaves(traced.out_info)
    leaves, _ = jax.tree_util.tree_flatten_with_path(constants)
    arguments = [_known(leaf, jax.tree_util.keystr(path, simple=True, separator='/')) for path, leaf in leaves]
    graph = _Graph()
    (result,) = graph.run(traced.jaxpr.jaxpr, traced.jaxpr.consts, [*arguments, _stored(input_name, images.shape)])
    graph.node('Identity', [graph.plain(result)], output=output_name)
    proto = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, _dimensions(images.shape))],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, _dimensions(output.shape))],
        graph.initializers,
    )
    opset = helper.make_opsetid('', _OPSET)
    return helper.make_model(proto, opset_imports=[opset], ir_version=_IR_VERSION, producer_name='resnet_jax')


def _dimensions(shape: Sequence[Any]) -> list[int | str]:
    return [n if isinstance(n, int) else str(n) for n in shape]


def _known(array: Any, name: str = '') -> _Value:
    array = np.asarray(array)
    return _Value(array.shape, array.shape, tuple(range(array.ndim)), array, name)


def _stored(name: str, shape: Sequence[Any], order: Sequence[int] | None = None) -> _Value:
    return _Value(tuple(shape), tuple(shape), tuple(range(len(shape)) if order is None else order), name=name)


def _aval(variable: Var) -> _Aval:
    assert isinstance(variable.aval, _Aval)
    return variable.aval


def _refuse(problem: str) -> ExportError:
    return ExportError(f'the network {problem}, which cannot be converted to ONNX; expected the format stablehlo')


class _Graph:
    """A graph that is being built."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()
        self._scope = ''  # of Flax's modules

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f'{name}_{number}'
        self._names.add(candidate)
        return candidate

    def node(self, kind: str, inputs: Sequence[str], output: str = '', **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = self._unique('/'.join(filter(None, (self._scope, kind))))
        output = output or name
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def constant(self, array: np.ndarray, name: str) -> str:
        """Adds a constant and returns its name."""
        name = self._unique(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _integers(self, values: Sequence[int]) -> str:
        return self.constant(np.asarray(values, np.int64), '/'.join(filter(None, (self._scope, 'integers'))))

    # Values

    def name(self, value: _Value, order: Sequence[int] | None = None) -> str:
        """Returns the name of a value, stored in an order of axes; by default as it is."""
        order = value.order if order is None else tuple(order)
        permutation = [value.order.index(axis) for axis in order]
        if value.array is not None:
            return self.constant(value.array.transpose(permutation), value.name or 'constant')
        return value.name if order == value.order else self.node('Transpose', [value.name], perm=permutation)

    def whole(self, value: _Value) -> _Value:
        """Returns the value after all broadcasts.

        Raises:
          ExportError: it has the size of the batch, and nothing else in it does.
        """
        if value.sizes == value.shape:
            return value
        if any(not isinstance(n, int) and n != size for n, size in zip(value.shape, value.sizes, strict=True)):
            raise _refuse('makes an array for each image that depends on none')
        sizes = [n if isinstance(n, int) else 1 for n in (value.shape[axis] for axis in value.order)]
        return _stored(self.node('Expand', [self.name(value), self._integers(sizes)]), value.shape, value.order)

    def plain(self, value: _Value) -> str:
        """Returns the name of a value after all broadcasts, stored as in the jaxpr."""
        return self.name(self.whole(value), range(len(value.shape)))

    # Jaxprs

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[_Value]) -> list[_Value]:
        """Adds the operations of a jaxpr, and returns its results.

        Raises:
          ExportError: an operation cannot be converted.
        """
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= zip(jaxpr.constvars, map(_known, constants), strict=True)

        def value(atom: Any) -> _Value:
            return _known(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, 'val') else values[atom]

        outer = self._scope
        for equation in jaxpr.eqns:
            self._scope = '/'.join(filter(None, (outer, str(equation.source_info.name_stack))))
            values |= zip(equation.outvars, self._convert(equation, [value(atom) for atom in equation.invars]), strict=True)
        self._scope = outer
        return [value(atom) for atom in jaxpr.outvars]

    def _convert(self, equation: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        kind, parameters = equation.primitive.name, equation.params
        function = next((parameters[key] for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr') if key in parameters), None)
        if function is not None and kind not in _LOOPS:
            return self.run(getattr(function, 'jaxpr', function), getattr(function, 'consts', ()), inputs)
        if known := self._compute(equation, inputs):
            return known
        if kind in _UNCHANGED:
            return inputs
        out = _aval(equation.outvars[0])
        if kind in _ELEMENTWISE:
            return [self._elementwise(_ELEMENTWISE[kind], inputs, out)]
        if kind in _REDUCE:
            return [self._reduce(_REDUCE[kind], inputs[0], out, parameters['axes'])]
        if kind not in _RULES:
            raise _refuse(f'has the operation {kind}')
        result = _RULES[kind](self, out, *inputs, **parameters)
        return result if isinstance(result, list) else [result]

    def _compute(self, equation: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        """Returns the results of an operation on what is known; [] if something is not."""
        if equation.primitive.name in _LOOPS or not all(isinstance(n, int) for v in equation.outvars for n in _aval(v).shape):
            return []
        arrays = [v.array.transpose(np.argsort(v.order)) for v in inputs if v.array is not None and v.sizes == v.shape]
        if len(arrays) < len(inputs):
            return []
        kind, out = equation.primitive.name, _aval(equation.outvars[0])
        name = inputs[0].name if inputs and kind in _RESHAPES else f'{self._scope}/constant'
        if kind in _NUMPY and np.issubdtype(out.dtype, np.floating):
            return [_known(np.asarray(_NUMPY[kind](*arrays), out.dtype), name)]
        if kind == 'broadcast_in_dim':
            new = [axis for axis in range(len(out.shape)) if axis not in equation.params['broadcast_dimensions']]
            return [_known(np.broadcast_to(np.expand_dims(arrays[0], new), out.shape), name)]
        results = equation.primitive.bind(*arrays, **equation.params)
        return [_known(result, name) for result in (results if equation.primitive.multiple_results else [results])]

    # Operations: each takes what is known of its result, the inputs and the parameters of the primitive.

    def _elementwise(self, kind: str, inputs: Sequence[_Value], out: _Aval) -> _Value:
        if kind in ('And', 'Or', 'Not') and out.dtype != np.bool_:
            raise _refuse('has a bitwise operation')
        full = [v for v in inputs if v.shape]  # the others are single numbers
        order = next((v.order for v in full if v.array is None), tuple(range(len(out.shape))))
        if kind == 'Sub' and inputs[1].array is not None and np.issubdtype(out.dtype, np.floating):
            # onnxruntime joins a convolution with a following addition, not with a subtraction.
            kind, inputs = 'Add', [inputs[0], dataclasses.replace(inputs[1], array=-inputs[1].array)]
        name = self.node(kind, [self.name(v, order if v.shape else ()) for v in inputs])
        sizes = tuple(next((v.sizes[axis] for v in full if v.sizes[axis] == n), 1) for axis, n in enumerate(out.shape))
        return _Value(tuple(out.shape), sizes, order, name=name)

    def _number(self, like: _Aval, value: float) -> _Value:
        return _known(np.asarray(value, like.dtype))

    def _reduce(self, kind: str, x: _Value, out: _Aval, axes: Sequence[int]) -> _Value:
        x = self.whole(x)
        stored = self._integers([x.order.index(axis) for axis in axes])
        return _stored(self.node(kind, [self.name(x), stored], keepdims=0), out.shape, _without(x.order, axes))

    def _argmax(self, out: _Aval, x: _Value, *, axes: Sequence[int], **_: Any) -> _Value:
        x = self.whole(x)
        name = self.node('ArgMax', [self.name(x)], axis=x.order.index(axes[0]), keepdims=0)
        return _stored(self._cast(name, out.dtype), out.shape, _without(x.order, axes))

    def _cast(self, name: str, dtype: Any) -> str:
        return self.node('Cast', [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _convert_element_type(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return dataclasses.replace(x, array=None, name=self._cast(self.name(x), out.dtype))

    def _rsqrt(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return self._elementwise('Reciprocal', [self._elementwise('Sqrt', [x], out)], out)

    def _ne(self, out: _Aval, x: _Value, y: _Value, **_: Any) -> _Value:
        return self._elementwise('Not', [self._elementwise('Equal', [x, y], out)], out)

    def _square(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return self._elementwise('Mul', [x, x], out)

    def _erfc(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return self._elementwise('Sub', [self._number(out, 1), self._elementwise('Erf', [x], out)], out)

    def _expm1(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return self._elementwise('Sub', [self._elementwise('Exp', [x], out), self._number(out, 1)], out)

    def _log1p(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        return self._elementwise('Log', [self._elementwise('Add', [x, self._number(out, 1)], out)], out)

    def _integer_pow(self, out: _Aval, x: _Value, *, y: int, **_: Any) -> _Value:
        return self._elementwise('Pow', [x, self._number(out, y)], out)

    def _clamp(self, out: _Aval, low: _Value, x: _Value, high: _Value, **_: Any) -> _Value:
        return self._elementwise('Min', [self._elementwise('Max', [x, low], out), high], out)

    def _select_n(self, out: _Aval, which: _Value, *cases: _Value, **_: Any) -> _Value:
        if len(cases) != 2:
            raise _refuse('selects among other than two arrays')
        return self._elementwise('Where', [which, cases[1], cases[0]], out)

    def _broadcast_in_dim(self, out: _Aval, x: _Value, *, broadcast_dimensions: Sequence[int], **_: Any) -> _Value:
        """Adds axes; what is computed with the result repeats them."""
        new = [axis for axis in range(len(out.shape)) if axis not in broadcast_dimensions]
        x = self.whole(x) if new else x
        if not new:
            return dataclasses.replace(x, shape=tuple(out.shape))
        sizes = [1] * len(out.shape)
        for axis, size in zip(broadcast_dimensions, x.sizes, strict=True):
            sizes[axis] = size
        plain = tuple(range(len(out.shape)))
        if x.array is not None:
            array = np.expand_dims(x.array.transpose(np.argsort(x.order)), tuple(new))
            return _Value(tuple(out.shape), tuple(sizes), plain, array, x.name)
        name = self.node('Unsqueeze', [self.plain(x), self._integers(new)])
        return _Value(tuple(out.shape), tuple(sizes), plain, name=name)

    def _reshape(self, out: _Aval, x: _Value, **_: Any) -> _Value:
        sizes = [n if isinstance(n, int) else -1 for n in out.shape]
        if sizes.count(-1) > 1:
            raise _refuse('has an array with two axes of the size of the batch')
        return _stored(self.node('Reshape', [self.plain(x), self._integers(sizes)]), out.shape)

    def _squeeze(self, out: _Aval, x: _Value, *, dimensions: Sequence[int], **_: Any) -> _Value:
        stored = self._integers([x.order.index(axis) for axis in dimensions])
        x = self.whole(x)
        return _stored(self.node('Squeeze', [self.name(x), stored]), out.shape, _without(x.order, dimensions))

    def _transpose(self, out: _Aval, x: _Value, *, permutation: Sequence[int], **_: Any) -> _Value:
        order = tuple(tuple(permutation).index(axis) for axis in x.order)
        return dataclasses.replace(x, shape=tuple(out.shape), sizes=tuple(x.sizes[i] for i in permutation), order=order)

    def _pad(self, out: _Aval, x: _Value, value: _Value, *, padding_config: Sequence[tuple[int, int, int]], **_: Any) -> _Value:
        x = self.whole(x)
        low, high, between = zip(*(padding_config[axis] for axis in x.order), strict=True)
        if any(between):
            raise _refuse('pads between pixels')
        name = self.node('Pad', [self.name(x), self._integers([*low, *high]), self.name(value)])
        return _stored(name, out.shape, x.order)

    def _slice(
        self,
        out: _Aval,
        x: _Value,
        *,
        start_indices: Sequence[Any],
        limit_indices: Sequence[Any],
        strides: Sequence[int] | None,
        **_: Any,
    ) -> _Value:
        x = self.whole(x)
        cuts = [
            (start, limit, x.order.index(axis), step)
            for axis, (start, limit, step) in enumerate(
                zip(start_indices, limit_indices, strides or [1] * len(x.shape), strict=True)
            )
            if (start, limit, step) != (0, x.shape[axis], 1)
        ]
        if not all(isinstance(number, int) for cut in cuts for number in cut):
            raise _refuse('takes a part of the batch')
        numbers = [self._integers(values) for values in zip(*cuts, strict=True)]
        return _stored(self.node('Slice', [self.name(x), *numbers]), out.shape, x.order) if cuts else x

    def _concatenate(self, out: _Aval, *arrays: _Value, dimension: int, **_: Any) -> _Value:
        parts = [self.whole(array) for array in arrays]
        order = next(part.order for part in parts if part.array is None)
        name = self.node('Concat', [self.name(part, order) for part in parts], axis=order.index(dimension))
        return _stored(name, out.shape, order)

    def _split(self, out: _Aval, x: _Value, *, sizes: Sequence[int], axis: int, **_: Any) -> list[_Value]:
        ends = np.cumsum(sizes)
        parts = []
        for size, end in zip(sizes, ends, strict=True):
            start, limit, shape = [0] * len(x.shape), list(x.shape), list(x.shape)
            start[axis], limit[axis], shape[axis] = int(end - size), int(end), size
            part = jax.core.ShapedArray(tuple(shape), out.dtype)
            parts.append(self._slice(part, x, start_indices=start, limit_indices=limit, strides=None))
        return parts

    def _conv(
        self, out: _Aval, x: _Value, kernel: _Value, *, strides: Sequence[int], padding: Sequence[Sequence[int]], groups: int
    ) -> _Value:
        """resnet_jax.ops.convolution."""
        numbers = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        return self._conv_general_dilated(
            out, x, kernel, window_strides=strides, padding=padding, dimension_numbers=numbers, feature_group_count=groups
        )

    def _conv_general_dilated(
        self,
        out: _Aval,
        x: _Value,
        kernel: _Value,
        *,
        window_strides: Sequence[int],
        padding: Sequence[Sequence[int]],
        dimension_numbers: jax.lax.ConvDimensionNumbers,
        feature_group_count: int,
        lhs_dilation: Sequence[int] = (),
        rhs_dilation: Sequence[int] = (),
        batch_group_count: int = 1,
        **_: Any,
    ) -> _Value:
        if {1, *lhs_dilation} != {1} or batch_group_count != 1:
            raise _refuse('has a transposed convolution')
        x, (low, high) = self.whole(x), zip(*padding, strict=True)
        image, weights = self.name(x, dimension_numbers.lhs_spec), self.name(self.whole(kernel), dimension_numbers.rhs_spec)
        if min(*low, *high) < 0:  # pixels that are cut off
            cut = [0, 0, *(min(n, 0) for n in low), 0, 0, *(min(n, 0) for n in high)]
            image = self.node('Pad', [image, self._integers(cut)])
        name = self.node(
            'Conv',
            [image, weights],
            strides=list(window_strides),
            pads=[max(n, 0) for n in (*low, *high)],
            group=feature_group_count,
            dilations=list(rhs_dilation) or [1] * len(window_strides),
        )
        return _stored(name, out.shape, dimension_numbers.out_spec)

    def _reduce_window(
        self,
        kind: str,
        out: _Aval,
        x: _Value,
        *,
        window_dimensions: Sequence[int],
        window_strides: Sequence[int],
        padding: Sequence[Sequence[int]],
        base_dilation: Sequence[int],
        window_dilation: Sequence[int],
    ) -> _Value:
        alone = [axis for axis, size in enumerate(window_dimensions) if size == 1 and tuple(padding[axis]) == (0, 0)]
        order = (*alone[:2], *(axis for axis in range(len(x.shape)) if axis not in alone[:2]))
        if len(alone) < 2 or {*base_dilation, *window_dilation} != {1} or any(window_strides[axis] > 1 for axis in order[:2]):
            raise _refuse('has a pool over other axes than the height and width of images')
        low, high = zip(*(padding[axis] for axis in order[2:]), strict=True)
        attributes: dict[str, Any] = {'count_include_pad': 1} if kind == 'AveragePool' else {}
        name = self.node(
            kind,
            [self.name(self.whole(x), order)],
            kernel_shape=[window_dimensions[axis] for axis in order[2:]],
            strides=[window_strides[axis] for axis in order[2:]],
            pads=[*low, *high],
            **attributes,
        )
        return _stored(name, out.shape, order)

    def _reduce_window_max(self, out: _Aval, x: _Value, **parameters: Any) -> _Value:
        return self._reduce_window('MaxPool', out, x, **parameters)

    def _reduce_window_sum(self, out: _Aval, x: _Value, **parameters: Any) -> _Value:
        mean = self._reduce_window('AveragePool', out, x, **parameters)
        return self._elementwise('Mul', [mean, self._number(out, math.prod(parameters['window_dimensions']))], out)

    def _dot_general(self, out: _Aval, x: _Value, y: _Value, *, dimension_numbers: Any, **_: Any) -> _Value:
        (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
        if not x_batch and tuple(x_sum) == (len(x.shape) - 1,) and tuple(y_sum) == (0,) and len(y.shape) == 2:
            return _stored(self.node('MatMul', [self.plain(x), self.plain(y)]), out.shape)
        letters = iter('abcdefghijklmnopqrstuvwxyz')
        x_names = [next(letters) for _ in x.shape]
        y_names = [next(letters) for _ in y.shape]
        for axis, other in zip((*x_sum, *x_batch), (*y_sum, *y_batch), strict=True):
            y_names[other] = x_names[axis]
        kept = [
            *(x_names[axis] for axis in x_batch),
            *(name for axis, name in enumerate(x_names) if axis not in (*x_sum, *x_batch)),
            *(name for axis, name in enumerate(y_names) if axis not in (*y_sum, *y_batch)),
        ]
        equation = f'{"".join(x_names)},{"".join(y_names)}->{"".join(kept)}'
        return _stored(self.node('Einsum', [self.plain(x), self.plain(y)], equation=equation), out.shape)


def _without(order: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Returns an order of axes after some are gone."""
    left = [axis for axis in order if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)


_RULES: dict[str, Callable[..., _Value | list[_Value]]] = {
    name.removeprefix('_'): getattr(_Graph, name)
    for name in (
        '_argmax',
        '_broadcast_in_dim',
        '_clamp',
        '_concatenate',
        '_conv',
        '_conv_general_dilated',
        '_convert_element_type',
        '_dot_general',
        '_erfc',
        '_expm1',
        '_integer_pow',
        '_log1p',
        '_ne',
        '_pad',
        '_reduce_window_max',
        '_reduce_window_sum',
        '_reshape',
        '_rsqrt',
        '_select_n',
        '_slice',
        '_split',
        '_square',
        '_squeeze',
        '_transpose',
    )
}
