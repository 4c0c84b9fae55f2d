"""Activations as plain functions. JAX's own are compiled functions, which `pickle` cannot find again by name."""

from collections.abc import Callable

import jax

Activation = Callable[[jax.Array], jax.Array]


def relu(x: jax.Array) -> jax.Array:
    """`jax.nn.relu`."""
    return jax.nn.relu(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """`jax.nn.sigmoid`."""
    return jax.nn.sigmoid(x)


def tanh(x: jax.Array) -> jax.Array:
    """`jax.nn.tanh`."""
    return jax.nn.tanh(x)


def gelu(x: jax.Array) -> jax.Array:
    """`jax.nn.gelu` without approximation, as PyTorch's GELU."""
    return jax.nn.gelu(x, approximate=False)


def silu(x: jax.Array) -> jax.Array:
    """`jax.nn.silu`."""
    return jax.nn.silu(x)


ACTIVATIONS: dict[str, Activation] = {'relu': relu, 'sigmoid': sigmoid, 'tanh': tanh, 'gelu': gelu, 'silu': silu}
