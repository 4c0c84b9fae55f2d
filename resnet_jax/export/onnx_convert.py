"""Converts a JAX function to an ONNX model, one operation of its jaxpr after the other.

The operations of convolutional networks are supported; others are refused with their name. The conversion needs only jaxprs,
which JAX documents, and onnx's helpers, so it needs no separate converter for each version of JAX. Values that do not depend on
an input are computed here and become constants.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
import onnx
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from numpy.typing import ArrayLike
from onnx import TensorProto, helper

from resnet_jax.export.onnx_graph import Graph, Value, known, refuse, stored
from resnet_jax.export.onnx_operations import ELEMENTWISE, REDUCE, RULES, Aval, elementwise, reduce
from resnet_jax.typing import PyTree

_OPSET, _IR_VERSION = 18, 8  # of 2022, for onnxruntime 1.14 and later

# Operations that NumPy computes on constants. JAX computes the others; it compiles each operation for every shape.
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
      constants: arrays; the model contains them under the names of their leaves.
      name: name of the graph.

    Raises:
      ExportError: the function has an operation that cannot be converted.
    """
    (batch,) = jax.export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *image_shape), np.uint8)
    traced = jax.jit(function).trace(constants, images)
    (output,) = jax.tree.leaves(traced.out_info)
    leaves, _ = jax.tree_util.tree_flatten_with_path(constants)
    arguments = [known(leaf, jax.tree_util.keystr(path, simple=True, separator='/')) for path, leaf in leaves]
    graph = Graph()
    (result,) = _run(graph, traced.jaxpr.jaxpr, traced.jaxpr.consts, [*arguments, stored(input_name, images.shape)])
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


def _dimensions(shape: Sequence[object]) -> list[int | str]:
    return [n if isinstance(n, int) else str(n) for n in shape]


def _aval(atom: Var | Literal) -> Aval:
    assert isinstance(atom.aval, Aval)
    return atom.aval


def _run(graph: Graph, jaxpr: Jaxpr, constants: Sequence[ArrayLike], arguments: Sequence[Value]) -> list[Value]:
    """Adds the operations of a jaxpr, and returns its results.

    Raises:
      ExportError: an operation cannot be converted.
    """
    values: dict[Var, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    values |= zip(jaxpr.constvars, map(known, constants), strict=True)

    def value(atom: Var | Literal) -> Value:
        return known(np.asarray(atom.val, _aval(atom).dtype)) if isinstance(atom, Literal) else values[atom]

    outer = graph.scope
    for equation in jaxpr.eqns:
        graph.scope = '/'.join(filter(None, (outer, str(equation.source_info.name_stack))))
        values |= zip(equation.outvars, _convert(graph, equation, [value(atom) for atom in equation.invars]), strict=True)
    graph.scope = outer
    return [value(atom) for atom in jaxpr.outvars]


def _convert(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
    kind, parameters = equation.primitive.name, equation.params
    function = next((parameters[key] for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr') if key in parameters), None)
    if function is not None and kind not in _LOOPS:
        return _run(graph, getattr(function, 'jaxpr', function), getattr(function, 'consts', ()), inputs)
    if computed := _compute(graph, equation, inputs):
        return computed
    if kind in _UNCHANGED:
        return inputs
    out = _aval(equation.outvars[0])
    if kind in ELEMENTWISE:
        return [elementwise(graph, ELEMENTWISE[kind], inputs, out)]
    if kind in REDUCE:
        return [reduce(graph, REDUCE[kind], inputs[0], out, parameters['axes'])]
    if kind not in RULES:
        raise refuse(f'has the operation {kind}')
    result = RULES[kind](graph, out, *inputs, **parameters)
    return result if isinstance(result, list) else [result]


def _compute(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Returns the results of an operation on known values; [] if a value is unknown."""
    if equation.primitive.name in _LOOPS or not all(isinstance(n, int) for v in equation.outvars for n in _aval(v).shape):
        return []
    arrays = [v.array.transpose(np.argsort(v.order)) for v in inputs if v.array is not None and v.sizes == v.shape]
    if len(arrays) < len(inputs):
        return []
    kind, out = equation.primitive.name, _aval(equation.outvars[0])
    name = inputs[0].name if inputs and kind in _RESHAPES else f'{graph.scope}/constant'
    if kind in _NUMPY and np.issubdtype(out.dtype, np.floating):
        return [known(np.asarray(_NUMPY[kind](*arrays), out.dtype), name)]
    if kind == 'broadcast_in_dim':
        new = [axis for axis in range(len(out.shape)) if axis not in equation.params['broadcast_dimensions']]
        return [known(np.broadcast_to(np.expand_dims(arrays[0], new), out.shape), name)]
    results = equation.primitive.bind(*arrays, **equation.params)
    return [known(result, name) for result in (results if equation.primitive.multiple_results else [results])]
