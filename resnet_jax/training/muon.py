"""Muon: orthogonalised momentum for convolution kernels.

K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon. The
orthogonalisation is optax's.
"""

import jax
import jax.numpy as jnp
import optax


def _convolution(kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    """Returns the axes that make a kernel `[height, width, in, out]` a matrix from patches to outputs."""
    return optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)


def renormalize() -> optax.GradientTransformation:
    """Rescales every kernel to Frobenius norm sqrt(outputs), on average 1 per output, before the update is added.

    As in github.com/KellerJordan/cifar10-airbench, airbench94_muon.py. With a BatchNorm after it, a kernel's norm does not
    change the network's output, only how far a step of fixed size rotates the kernel. Must be the last of a chain.
    """

    def rescaled(update: jax.Array, kernel: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.square(kernel).sum())
        return update + (jnp.sqrt(kernel.shape[-1]) / (norm + 1e-7) - 1) * kernel

    return optax.stateless(lambda updates, params: jax.tree.map(rescaled, updates, params))


def muon(learning_rate: optax.Schedule, momentum: float, nesterov: bool, steps: int) -> optax.GradientTransformation:
    """Returns Muon for kernels `[height, width, in, out]`, renormalised at each step.

    Args:
      learning_rate: size of an update: its singular values are about this, whatever the gradient's norm.
      momentum, nesterov: as in PyTorch's SGD: a sum of gradients, not a bias-corrected average.
      steps: number of quintic Newton-Schulz iterations with coefficients 3.4445, -4.7750, 2.0315. Singular values do not
        converge to 1: one of at least 0.018 of the Frobenius norm (3 steps) or 0.0015 (5 steps) ends between 0.68 and
        1.21, a smaller one below that.
    """
    # scale_by_muon's own momentum is bias-corrected by factors that change with the step; beta=0 leaves only the
    # orthogonalisation (and one unused copy of the kernels in the state).
    orthogonalize = optax.contrib.scale_by_muon(
        ns_steps=steps,
        beta=0.0,
        eps=1e-7,
        nesterov=False,
        weight_dimension_numbers=lambda kernels: jax.tree.map(_convolution, kernels),
    )
    return optax.chain(
        optax.trace(momentum, nesterov), orthogonalize, optax.scale_by_learning_rate(learning_rate), renormalize()
    )
