"""The operations of convolutional networks, as nodes of an ONNX graph.

Each function takes the graph, the aval of the result, the operation's inputs and the parameters of JAX's primitive.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from onnx import helper

from resnet_jax.export.onnx_graph import Graph, Value, known, refuse, stored

Aval = jax.core.ShapedArray

ELEMENTWISE = {
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
REDUCE = {'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin', 'reduce_prod': 'ReduceProd', 'reduce_sum': 'ReduceSum'}


def elementwise(graph: Graph, kind: str, inputs: Sequence[Value], out: Aval) -> Value:
    """Adds a node of an elementwise kind; ONNX broadcasts its inputs.

    Raises:
      ExportError: the operation is bitwise.
    """
    if kind in ('And', 'Or', 'Not') and out.dtype != np.bool_:
        raise refuse('has a bitwise operation')
    full = [v for v in inputs if v.shape]  # without scalars
    order = next((v.order for v in full if v.array is None), tuple(range(len(out.shape))))
    if kind == 'Sub' and inputs[1].array is not None and np.issubdtype(out.dtype, np.floating):
        # onnxruntime joins a convolution with a following addition, but not with a subtraction.
        kind, inputs = 'Add', [inputs[0], dataclasses.replace(inputs[1], array=-inputs[1].array)]
    name = graph.node(kind, [graph.name(v, order if v.shape else ()) for v in inputs])
    sizes = tuple(next((v.sizes[axis] for v in full if v.sizes[axis] == n), 1) for axis, n in enumerate(out.shape))
    return Value(tuple(out.shape), sizes, order, name=name)


def _number(graph: Graph, like: Aval, value: float) -> Value:
    return known(np.asarray(value, like.dtype))


def reduce(graph: Graph, kind: str, x: Value, out: Aval, axes: Sequence[int]) -> Value:
    """Adds a reduction over some of the jaxpr's axes."""
    x = graph.whole(x)
    places = graph.integers([x.order.index(axis) for axis in axes])
    return stored(graph.node(kind, [graph.name(x), places], keepdims=0), out.shape, _without(x.order, axes))


def _argmax(graph: Graph, out: Aval, x: Value, *, axes: Sequence[int], **_: object) -> Value:
    x = graph.whole(x)
    name = graph.node('ArgMax', [graph.name(x)], axis=x.order.index(axes[0]), keepdims=0)
    return stored(_cast(graph, name, out.dtype), out.shape, _without(x.order, axes))


def _cast(graph: Graph, name: str, dtype: jax.typing.DTypeLike) -> str:
    return graph.node('Cast', [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _convert_element_type(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return dataclasses.replace(x, array=None, name=_cast(graph, graph.name(x), out.dtype))


def _rsqrt(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return elementwise(graph, 'Reciprocal', [elementwise(graph, 'Sqrt', [x], out)], out)


def _ne(graph: Graph, out: Aval, x: Value, y: Value, **_: object) -> Value:
    return elementwise(graph, 'Not', [elementwise(graph, 'Equal', [x, y], out)], out)


def _square(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return elementwise(graph, 'Mul', [x, x], out)


def _erfc(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return elementwise(graph, 'Sub', [_number(graph, out, 1), elementwise(graph, 'Erf', [x], out)], out)


def _expm1(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return elementwise(graph, 'Sub', [elementwise(graph, 'Exp', [x], out), _number(graph, out, 1)], out)


def _log1p(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    return elementwise(graph, 'Log', [elementwise(graph, 'Add', [x, _number(graph, out, 1)], out)], out)


def _integer_pow(graph: Graph, out: Aval, x: Value, *, y: int, **_: object) -> Value:
    return elementwise(graph, 'Pow', [x, _number(graph, out, y)], out)


def _clamp(graph: Graph, out: Aval, low: Value, x: Value, high: Value, **_: object) -> Value:
    return elementwise(graph, 'Min', [elementwise(graph, 'Max', [x, low], out), high], out)


def _select_n(graph: Graph, out: Aval, which: Value, *cases: Value, **_: object) -> Value:
    if len(cases) != 2:
        raise refuse('selects among other than two arrays')
    return elementwise(graph, 'Where', [which, cases[1], cases[0]], out)


def _broadcast_in_dim(graph: Graph, out: Aval, x: Value, *, broadcast_dimensions: Sequence[int], **_: object) -> Value:
    """Adds axes of size 1, which later operations broadcast."""
    new = [axis for axis in range(len(out.shape)) if axis not in broadcast_dimensions]
    x = graph.whole(x) if new else x
    if not new:
        return dataclasses.replace(x, shape=tuple(out.shape))
    sizes: list[object] = [1] * len(out.shape)
    for axis, size in zip(broadcast_dimensions, x.sizes, strict=True):
        sizes[axis] = size
    plain = tuple(range(len(out.shape)))
    if x.array is not None:
        array = np.expand_dims(x.array.transpose(np.argsort(x.order)), tuple(new))
        return Value(tuple(out.shape), tuple(sizes), plain, array, x.name)
    name = graph.node('Unsqueeze', [graph.plain(x), graph.integers(new)])
    return Value(tuple(out.shape), tuple(sizes), plain, name=name)


def _reshape(graph: Graph, out: Aval, x: Value, **_: object) -> Value:
    sizes = [n if isinstance(n, int) else -1 for n in out.shape]
    if sizes.count(-1) > 1:
        raise refuse('has an array with two axes of the size of the batch')
    return stored(graph.node('Reshape', [graph.plain(x), graph.integers(sizes)]), out.shape)


def _squeeze(graph: Graph, out: Aval, x: Value, *, dimensions: Sequence[int], **_: object) -> Value:
    places = graph.integers([x.order.index(axis) for axis in dimensions])
    x = graph.whole(x)
    return stored(graph.node('Squeeze', [graph.name(x), places]), out.shape, _without(x.order, dimensions))


def _transpose(graph: Graph, out: Aval, x: Value, *, permutation: Sequence[int], **_: object) -> Value:
    order = tuple(tuple(permutation).index(axis) for axis in x.order)
    return dataclasses.replace(x, shape=tuple(out.shape), sizes=tuple(x.sizes[i] for i in permutation), order=order)


def _pad(
    graph: Graph, out: Aval, x: Value, value: Value, *, padding_config: Sequence[tuple[int, int, int]], **_: object
) -> Value:
    x = graph.whole(x)
    low, high, between = zip(*(padding_config[axis] for axis in x.order), strict=True)
    if any(between):
        raise refuse('pads between pixels')
    name = graph.node('Pad', [graph.name(x), graph.integers([*low, *high]), graph.name(value)])
    return stored(name, out.shape, x.order)


def _slice(
    graph: Graph,
    out: Aval,
    x: Value,
    *,
    start_indices: Sequence[object],
    limit_indices: Sequence[object],
    strides: Sequence[int] | None,
    **_: object,
) -> Value:
    x = graph.whole(x)
    cuts = [
        (_fixed(start), _fixed(limit), x.order.index(axis), step)
        for axis, (start, limit, step) in enumerate(
            zip(start_indices, limit_indices, strides or [1] * len(x.shape), strict=True)
        )
        if (start, limit, step) != (0, x.shape[axis], 1)
    ]
    numbers = [graph.integers(values) for values in zip(*cuts, strict=True)]
    return stored(graph.node('Slice', [graph.name(x), *numbers]), out.shape, x.order) if cuts else x


def _fixed(index: object) -> int:
    if not isinstance(index, int):
        raise refuse('takes a part of the batch')
    return index


def _concatenate(graph: Graph, out: Aval, *arrays: Value, dimension: int, **_: object) -> Value:
    parts = [graph.whole(array) for array in arrays]
    order = next(part.order for part in parts if part.array is None)
    name = graph.node('Concat', [graph.name(part, order) for part in parts], axis=order.index(dimension))
    return stored(name, out.shape, order)


def _split(graph: Graph, out: Aval, x: Value, *, sizes: Sequence[int], axis: int, **_: object) -> list[Value]:
    ends = np.cumsum(sizes)
    parts = []
    for size, end in zip(sizes, ends, strict=True):
        start, limit, shape = [0] * len(x.shape), list(x.shape), list(x.shape)
        start[axis], limit[axis], shape[axis] = int(end - size), int(end), size
        part = jax.core.ShapedArray(tuple(shape), out.dtype)
        parts.append(_slice(graph, part, x, start_indices=start, limit_indices=limit, strides=None))
    return parts


def _conv(
    graph: Graph, out: Aval, x: Value, kernel: Value, *, strides: Sequence[int], padding: Sequence[Sequence[int]], groups: int
) -> Value:
    """resnet_jax.ops.convolution."""
    numbers = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    return _conv_general_dilated(
        graph, out, x, kernel, window_strides=strides, padding=padding, dimension_numbers=numbers, feature_group_count=groups
    )


def _conv_general_dilated(
    graph: Graph,
    out: Aval,
    x: Value,
    kernel: Value,
    *,
    window_strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    dimension_numbers: jax.lax.ConvDimensionNumbers,
    feature_group_count: int,
    lhs_dilation: Sequence[int] = (),
    rhs_dilation: Sequence[int] = (),
    batch_group_count: int = 1,
    **_: object,
) -> Value:
    if {1, *lhs_dilation} != {1} or batch_group_count != 1:
        raise refuse('has a transposed convolution')
    x, (low, high) = graph.whole(x), zip(*padding, strict=True)
    image, weights = graph.name(x, dimension_numbers.lhs_spec), graph.name(graph.whole(kernel), dimension_numbers.rhs_spec)
    if min(*low, *high) < 0:  # negative padding cuts pixels off
        cut = [0, 0, *(min(n, 0) for n in low), 0, 0, *(min(n, 0) for n in high)]
        image = graph.node('Pad', [image, graph.integers(cut)])
    name = graph.node(
        'Conv',
        [image, weights],
        strides=list(window_strides),
        pads=[max(n, 0) for n in (*low, *high)],
        group=feature_group_count,
        dilations=list(rhs_dilation) or [1] * len(window_strides),
    )
    return stored(name, out.shape, dimension_numbers.out_spec)


def _reduce_window(
    graph: Graph,
    kind: str,
    out: Aval,
    x: Value,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Value:
    alone = [axis for axis, size in enumerate(window_dimensions) if size == 1 and tuple(padding[axis]) == (0, 0)]
    order = (*alone[:2], *(axis for axis in range(len(x.shape)) if axis not in alone[:2]))
    if len(alone) < 2 or {*base_dilation, *window_dilation} != {1} or any(window_strides[axis] > 1 for axis in order[:2]):
        raise refuse('has a pool over other axes than the height and width of images')
    low, high = zip(*(padding[axis] for axis in order[2:]), strict=True)
    attributes: dict[str, Any] = {'count_include_pad': 1} if kind == 'AveragePool' else {}
    name = graph.node(
        kind,
        [graph.name(graph.whole(x), order)],
        kernel_shape=[window_dimensions[axis] for axis in order[2:]],
        strides=[window_strides[axis] for axis in order[2:]],
        pads=[*low, *high],
        **attributes,
    )
    return stored(name, out.shape, order)


def _reduce_window_max(graph: Graph, out: Aval, x: Value, **parameters: Any) -> Value:
    return _reduce_window(graph, 'MaxPool', out, x, **parameters)


def _reduce_window_sum(graph: Graph, out: Aval, x: Value, **parameters: Any) -> Value:
    mean = _reduce_window(graph, 'AveragePool', out, x, **parameters)
    return elementwise(graph, 'Mul', [mean, _number(graph, out, math.prod(parameters['window_dimensions']))], out)


def _dot_general(
    graph: Graph, out: Aval, x: Value, y: Value, *, dimension_numbers: jax.lax.DotDimensionNumbers, **_: object
) -> Value:
    (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
    if not x_batch and tuple(x_sum) == (len(x.shape) - 1,) and tuple(y_sum) == (0,) and len(y.shape) == 2:
        return stored(graph.node('MatMul', [graph.plain(x), graph.plain(y)]), out.shape)
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
    return stored(graph.node('Einsum', [graph.plain(x), graph.plain(y)], equation=equation), out.shape)


def _without(order: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Returns an order of axes without `axes`, renumbered."""
    left = [axis for axis in order if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)


RULES: dict[str, Callable[..., Value | list[Value]]] = {
    'argmax': _argmax,
    'broadcast_in_dim': _broadcast_in_dim,
    'clamp': _clamp,
    'concatenate': _concatenate,
    'conv': _conv,
    'conv_general_dilated': _conv_general_dilated,
    'convert_element_type': _convert_element_type,
    'dot_general': _dot_general,
    'erfc': _erfc,
    'expm1': _expm1,
    'integer_pow': _integer_pow,
    'log1p': _log1p,
    'ne': _ne,
    'pad': _pad,
    'reduce_window_max': _reduce_window_max,
    'reduce_window_sum': _reduce_window_sum,
    'reshape': _reshape,
    'rsqrt': _rsqrt,
    'select_n': _select_n,
    'slice': _slice,
    'split': _split,
    'square': _square,
    'squeeze': _squeeze,
    'transpose': _transpose,
}
