"""Muon: orthogonalised momentum for convolution kernels.

K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from resnet_jax.typing import PyTree

_COEFFICIENTS = 3.4445, -4.7750, 2.0315


def renormalize() -> optax.GradientTransformation:
    """Rescales every kernel to Frobenius norm sqrt(outputs), on average 1 per output, before the update is added.

    As in github.com/KellerJordan/cifar10-airbench, airbench94_muon.py. If a BatchNorm follows, a kernel's norm does not
    change the network's output, only how far a step of fixed size rotates the kernel. Must be the last in a chain.
    """

    def rescaled(update: jax.Array, kernel: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.square(kernel).sum())
        return update + (jnp.sqrt(kernel.shape[-1]) / (norm + 1e-7) - 1) * kernel

    return optax.stateless(lambda updates, params: jax.tree.map(rescaled, updates, params))


def orthogonalize(matrices: list[jax.Array], steps: int, dtype: DTypeLike = jnp.float32) -> list[jax.Array]:
    """Normalises each matrix and applies `steps` Newton-Schulz iterations.

    Each matrix is divided by its Frobenius norm; an iteration maps its singular values by a quintic polynomial. Matrices with
    equal smaller sides are padded with rows of zeros, which change nothing, and multiplied in one batch. The idea is from
    github.com/hiverge/cifar10-speedrun, which batches all matrices.

    Args:
      matrices: float32 `[rows, columns]`, of any sizes.
      dtype: dtype of the products.

    Returns:
      float32 matrices, with the shapes of `matrices`.
    """
    tall = [matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T for matrix in matrices]
    a, b, c = _COEFFICIENTS
    done = list(tall)
    for columns in {matrix.shape[1]: None for matrix in tall}:
        group = [i for i, matrix in enumerate(tall) if matrix.shape[1] == columns]
        rows = max(len(tall[i]) for i in group)
        x = jnp.stack([jnp.pad(tall[i], ((0, rows - len(tall[i])), (0, 0))) for i in group])
        x = (x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)).astype(dtype)
        for _ in range(steps):
            square = x.mT @ x
            x = a * x + x @ (b * square + c * square @ square)
        for i, matrix in zip(group, x.astype(jnp.float32), strict=True):
            done[i] = matrix[: len(tall[i])]
    return [y if y.shape == matrix.shape else y.T for y, matrix in zip(done, matrices, strict=True)]


def muon(
    learning_rate: optax.Schedule, momentum: float, nesterov: bool, steps: int, dtype: DTypeLike = jnp.float32
) -> optax.GradientTransformation:
    """Returns Muon for kernels `[height, width, in, out]`, renormalised at each step.

    Args:
      learning_rate: size of an update: about the size of its singular values, whatever the gradient's norm.
      momentum, nesterov: as in PyTorch's SGD: a sum of gradients, not a bias-corrected average.
      steps: number of quintic Newton-Schulz iterations with coefficients 3.4445, -4.7750, 2.0315. Singular values do not
        converge to 1: if one is at least 0.018 (3 steps) or 0.0015 (5 steps) of the Frobenius norm, it ends between 0.68 and
        1.21; if it is smaller, it ends below that.
      dtype: dtype of the iterations' products; the sources compute them in 16 bits.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        kernels, structure = jax.tree.flatten(updates)
        matrices = [kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels]  # [patch, output]
        matrices = orthogonalize(matrices, steps, dtype)
        shaped = [matrix.reshape(kernel.shape) for matrix, kernel in zip(matrices, kernels, strict=True)]
        return jax.tree.unflatten(structure, shaped), state

    # The iterations need no state. The unused state of optax's scale_by_muon keeps the structure of checkpoints.
    init = optax.contrib.scale_by_muon(ns_steps=steps).init
    return optax.chain(
        optax.trace(momentum, nesterov),
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
        renormalize(),
    )
