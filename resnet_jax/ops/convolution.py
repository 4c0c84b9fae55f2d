"""The convolution of all networks, as JAX primitives: every transformation works, and the form depends on the platform.

On a CPU, the forms of convolution_forms.py compute the convolution; elsewhere XLA does.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from resnet_jax.ops import convolution_forms as forms
from resnet_jax.ops import kernels
from resnet_jax.ops.convolution_forms import Padding, Pair
from resnet_jax.ops.primitives import divided_like, lowering, result_types, varying_alike


def _primitive(name: str, native: Callable[..., jax.Array], cpu: Callable[..., jax.Array]) -> jax.extend.core.Primitive:
    """Returns a primitive of two arrays that is lowered to `cpu` on a CPU and to `native` elsewhere."""
    primitive = jax.extend.core.Primitive(name)

    def lower_for_cpu(context: mlir.LoweringRuleContext, *values: Any, **parameters: object) -> Any:
        with kernels.enabled(_is_local(context)):
            return lowering(cpu, multiple_results=False)(context, *values, **parameters)

    def abstract(*arrays: jax.core.ShapedArray, **parameters: object) -> jax.core.ShapedArray:
        spec = () if name == 'conv_kernel_gradient' else arrays[0].sharding.spec[:1]  # how the batch is divided
        return result_types(functools.partial(native, **parameters), *arrays, spec=spec)[0]

    def implement(*arrays: jax.Array, **parameters: object) -> jax.Array:
        with jax.disable_jit(False):  # within jax.disable_jit(), the jitted function would call this one without end
            result: jax.Array = _jitted(primitive, tuple(parameters.items()))(*arrays)
        return result

    mlir.register_lowering(primitive, lowering(native, multiple_results=False))
    mlir.register_lowering(primitive, lower_for_cpu, platform='cpu')
    primitive.def_abstract_eval(abstract)
    primitive.def_impl(implement)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


@functools.cache
def _jitted(primitive: jax.extend.core.Primitive, parameters: tuple[tuple[str, object], ...]) -> jax.stages.Wrapped:
    return jax.jit(lambda *arrays: primitive.bind(*arrays, **dict(parameters)))


def _is_local(context: mlir.LoweringRuleContext) -> bool:
    """Returns whether the lowered program runs in this process, on arrays that are not divided among devices.

    An exported program runs elsewhere, and XLA cannot divide a call of a C kernel among devices.
    """
    module = context.module_context
    axes: Any = module.axis_context
    if module.lowering_parameters.for_export:
        return False
    if hasattr(axes, 'manual_axes'):  # the axes of pmap and shard_map
        return set(axes.manual_axes) == set(axes.mesh.axis_names)
    return bool(getattr(axes, 'num_devices', 1) in (None, 1))


def _batch(
    primitive: jax.extend.core.Primitive,
    arrays: Sequence[jax.Array],
    axes: Sequence[int | None],
    *,
    groups: int,
    **parameters: object,
) -> tuple[jax.Array, int]:
    """Maps a primitive over a new axis of one or both arrays, in a single call.

    If only the images have the axis, it joins the batch. Otherwise the axis becomes groups of channels and the batch stays
    unchanged: each group of images has its own group of kernels.
    """
    count = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    if primitive is not kernel_gradient_p and axes[0] is not None and axes[1] is None:
        folded = jnp.moveaxis(arrays[0], axes[0], 0)
        out = primitive.bind(folded.reshape(-1, *folded.shape[2:]), arrays[1], groups=groups, **parameters)
        return out.reshape(count, -1, *out.shape[1:]), 0

    def joined(array: jax.Array, axis: int | None) -> jax.Array:
        """Returns the array with the axis as the slowest part of the channels."""
        if axis is None:
            array, axis = jnp.broadcast_to(array, (count, *array.shape)), 0
        array = jnp.moveaxis(array, axis, -2)
        return array.reshape(*array.shape[:-2], -1)

    out = primitive.bind(*map(joined, arrays, axes), groups=count * groups, **parameters)
    return out.reshape(*out.shape[:-1], count, -1), out.ndim - 1


# A convolution and its two gradients are bilinear, and the transposes of each are the other two. So these three suffice for
# forward and reverse mode in any order.
conv_p = _primitive('conv', forms.native, forms.cpu)
input_gradient_p = _primitive('conv_input_gradient', forms.native_input_gradient, forms.cpu_input_gradient)
kernel_gradient_p = _primitive('conv_kernel_gradient', forms.native_kernel_gradient, forms.cpu_kernel_gradient)


def _shape(array: jax.Array) -> tuple[int, ...]:
    """Returns the shape of an array, or of the placeholder for one in a transposition."""
    return tuple(getattr(array, 'aval', array).shape)


def _size(array: jax.Array) -> tuple[int, ...]:
    return _shape(array)[1:3]


def _kernel_size(array: jax.Array) -> tuple[int, ...]:
    return _shape(array)[:2]


ad.defbilinear(
    conv_p,
    lambda g, x, kernel, **rest: divided_like(input_gradient_p.bind(g, kernel, image=_size(x), **rest), x),
    lambda g, x, kernel, **rest: divided_like(kernel_gradient_p.bind(g, x, kernel_size=_kernel_size(kernel), **rest), kernel),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, g, kernel, image, **rest: divided_like(conv_p.bind(x, kernel, **rest), g),
    lambda x, g, kernel, image, **rest: divided_like(
        kernel_gradient_p.bind(g, x, kernel_size=_kernel_size(kernel), **rest), kernel
    ),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda kernel, g, x, kernel_size, **rest: divided_like(conv_p.bind(x, kernel, **rest), g),
    lambda kernel, g, x, kernel_size, **rest: divided_like(input_gradient_p.bind(g, kernel, image=_size(x), **rest), x),
)


def conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1) -> jax.Array:
    """Convolves like PyTorch's `conv2d`, in a form chosen by platform and shape when the program is lowered.

    Composes with every transformation of JAX, in any order: forward and reverse mode, vmap, checkpoint, export.

    Args:
      x: float32 or bfloat16, `[b, h, w, i]`. On a CPU bfloat16 is computed in float32 and rounded at the end, except
        that a plain convolution is left to XLA. float64 is left to XLA everywhere.
      kernel: `[kh, kw, i / groups, o]`, with the dtype of x.
      strides: for height and width.
      padding: zero padding in pixels, ((top, bottom), (left, right)).
      groups: number of channel groups; each group has `o / groups` outputs, which see only this group.

    Returns:
      `[b, (h + top + bottom - kh) // strides[0] + 1, (w + ...) ..., o]` in x's dtype.
    """
    out: jax.Array = conv_p.bind(*varying_alike(x, kernel), strides=strides, padding=padding, groups=groups)
    return out


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[Pair],
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: jax.lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
    out_sharding: object = None,
) -> jax.Array:
    """Calls `conv` with the arguments of `Conv(conv_general_dilated=...)` of linen and NNX.

    Raises:
      ValueError: an argument has no equivalent in `conv`.
    """
    if {*lhs_dilation, *rhs_dilation} != {1} or (precision, out_sharding) != (None, None) or isinstance(padding, str):
        raise ValueError('only explicit padding, no dilation, default precision and default sharding are supported')
    (down, right), ((top, bottom), (left, after)) = window_strides, padding
    return conv(lhs, rhs, (down, right), ((top, bottom), (left, after)), feature_group_count)
