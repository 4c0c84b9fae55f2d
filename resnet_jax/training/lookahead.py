"""Lookahead: every few steps the parameters are pulled back to an average of where they have been.

Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610, with a share that changes over the run,
as in github.com/KellerJordan/cifar10-airbench, airbench96_faster.py.
"""

import jax
import jax.numpy as jnp

from resnet_jax.typing import PyTree


def pull(
    step: jax.Array, fast: PyTree, slow: PyTree, *, sync_period: int, decay: float, total_steps: int
) -> tuple[PyTree, PyTree]:
    """Returns (fast, slow) after so many steps.

    At each multiple of `sync_period` the slow weights become `keep * slow + (1 - keep) * fast` with
    `keep = decay * (step / total_steps)**3`, and the fast ones become equal to them: hardly a change at first, and towards
    the end an average. After the last step, a multiple or not, the fast weights are the slow ones.

    Args:
      step: int32 scalar, the steps done, this one included: 1 after the first.
      fast, slow: trees of the same structure; statistics of BatchNorm are pulled as parameters are.
    """
    keep = decay * (step / total_steps) ** 3
    due = step % sync_period == 0
    slow = jax.tree.map(lambda s, f: jnp.where(due, s + (1 - keep) * (f - s), s), slow, fast)
    synchronize = due | (step == total_steps)
    return jax.tree.map(lambda f, s: jnp.where(synchronize, s, f), fast, slow), slow
