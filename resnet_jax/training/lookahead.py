"""Lookahead: every few steps, pulls the parameters back to an average of their past values.

Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610, with a decay that changes over the run,
as in github.com/KellerJordan/cifar10-airbench, airbench96_faster.py.
"""

import jax
import jax.numpy as jnp

from resnet_jax.typing import PyTree


def pull(
    step: jax.Array, fast: PyTree, slow: PyTree, *, sync_period: int, decay: float, total_steps: int
) -> tuple[PyTree, PyTree]:
    """Returns (fast, slow) after `step` steps.

    At each multiple of `sync_period` the slow weights become `keep * slow + (1 - keep) * fast` with
    `keep = decay * (step / total_steps)**3`, and the fast weights are set to the slow ones. This changes little at first and
    averages towards the end. After the last step, whether it is a multiple or not, the fast weights are set to the slow ones.

    Args:
      step: int32 scalar, number of finished steps, including this one: 1 after the first step.
      fast, slow: pytrees of the same structure; BatchNorm statistics are treated like parameters.
    """
    keep = decay * (step / total_steps) ** 3
    due = step % sync_period == 0
    slow = jax.tree.map(lambda s, f: jnp.where(due, s + (1 - keep) * (f - s), s), slow, fast)
    synchronize = due | (step == total_steps)
    return jax.tree.map(lambda f, s: jnp.where(synchronize, s, f), fast, slow), slow
