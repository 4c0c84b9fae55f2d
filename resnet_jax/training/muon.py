"""Muon: momentum, made orthogonal, for the kernels of convolutions. K. Jordan, "Muon: An optimizer for hidden layers in neural
networks", 2024, kellerjordan.github.io/posts/muon; the orthogonalisation is optax's."""

import jax
import jax.numpy as jnp
import optax


def _convolution(kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    """A kernel `[height, width, in, out]` as the matrix from patches to outputs."""
    return optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)


def renormalize() -> optax.GradientTransformation:
    """Gives every kernel the Frobenius norm sqrt(outputs), before the update is added: 1 for an output, on average.

    As in github.com/KellerJordan/cifar10-airbench, airbench94_muon.py. Behind a BatchNorm the norm makes no difference to
    the network, but to the share of a kernel that a step of fixed size turns. It must be the last of a chain.
    """

    def rescaled(update: jax.Array, kernel: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.square(kernel).sum())
        return update + (jnp.sqrt(kernel.shape[-1]) / (norm + 1e-7) - 1) * kernel

    return optax.stateless(lambda updates, params: jax.tree.map(rescaled, updates, params))


def muon(learning_rate: optax.Schedule, momentum: float, nesterov: bool, steps: int) -> optax.GradientTransformation:
    """Returns Muon for kernels `[height, width, in, out]`, renormalised at each step.

    Args:
      learning_rate: the size of an update: its singular values are about 1 times this, whatever the gradient's size.
      momentum, nesterov: as PyTorch's SGD: a sum of gradients, not an average with a correction of its first steps.
      steps: Newton-Schulz iterations, quintic, with coefficients 3.4445, -4.7750, 2.0315. They do not converge to 1: a
        singular value of at least 0.018 of the Frobenius norm (3 steps) or 0.0015 (5 steps) becomes 0.68 to 1.21, a
        smaller one less.
    """
    # scale_by_muon's own momentum is corrected for the first steps, in proportions that change; beta=0 leaves only its
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
