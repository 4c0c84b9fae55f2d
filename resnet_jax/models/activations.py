"""Activations as plain functions. JAX's are compiled functions, which `pickle` cannot find by name."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


def relu(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`."""
    return jax.nn.relu(x)


def act_of_sum(act: Activation, x: jax.Array, y: jax.Array | float) -> jax.Array:
    """Returns act(x + y), the end of a residual block; the gradient of ReLU reads the result instead of x and y."""
    return _positive(x + y) if act is relu else act(x + y)


@jax.custom_jvp
def _positive(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


@_positive.defjvp
def _positive_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Compares the result with 0: to compare x, a sum that is not in memory, XLA would compute it again.
    y = jax.lax.optimization_barrier(_positive(*primals))
    return y, jnp.where(y > 0, *tangents, 0)


def sigmoid(x: jax.Array) -> jax.Array:
    """`jax.nn.sigmoid`."""
    return jax.nn.sigmoid(x)


def tanh(x: jax.Array) -> jax.Array:
    """`jax.nn.tanh`."""
    return jax.nn.tanh(x)


def gelu(x: jax.Array) -> jax.Array:
    """`jax.nn.gelu` without approximation, as PyTorch's GELU; computed in float32 at least."""
    y: jax.Array = _gelu(x)
    return y


def silu(x: jax.Array) -> jax.Array:
    """`jax.nn.silu`."""
    return jax.nn.silu(x)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x.astype(jnp.promote_types(x.dtype, jnp.float32)), approximate=False).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Keeps only x from the forward pass; JAX's derivative also keeps the error function and two products."""
    (x,), (dx,) = primals, tangents
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = jnp.exp(-jnp.square(wide) / 2) / math.sqrt(2 * math.pi)
    # Not erfc: XLA would keep it from the forward pass. For large negative x the slope is 0 instead of 1e-8.
    slope = (1 + jax.lax.erf(wide * math.sqrt(0.5))) / 2 + wide * density
    return _gelu(x), slope.astype(x.dtype) * dx


ACTIVATIONS: dict[str, Activation] = {'relu': relu, 'sigmoid': sigmoid, 'tanh': tanh, 'gelu': gelu, 'silu': silu}
