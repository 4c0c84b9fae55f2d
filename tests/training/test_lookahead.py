import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training.lookahead import pull

pytestmark = pytest.mark.usefixtures('quick_compilation')


def run(every, total_steps, decay=0.8):
    """Fast weights that grow by 1 in each step; returns (fast, slow) after each."""
    fast, slow, path = {'params': jnp.zeros(2)}, {'params': jnp.zeros(2)}, []
    step_fn = jax.jit(functools.partial(pull, sync_period=every, decay=decay, total_steps=total_steps))
    for step in range(1, total_steps + 1):
        fast, slow = step_fn(jnp.int32(step), {'params': fast['params'] + 1}, slow)
        path.append((float(fast['params'][0]), float(slow['params'][1])))
    return np.array(path)


def test_by_hand():
    """Pulls after steps 2 and 4 of 4, which keep 0.8 / 8 = 0.1 and 0.8 of the slow weights."""
    # 1; 2 -> slow 0.1 * 0 + 0.9 * 2 = 1.8; 2.8; 3.8 -> 0.8 * 1.8 + 0.2 * 3.8 = 2.2
    np.testing.assert_allclose(run(2, 4), [(1, 0), (1.8, 1.8), (2.8, 1.8), (2.2, 2.2)], rtol=1e-6)


def test_after_the_last_step_the_weights_are_the_slow_ones():
    path = run(3, 7)  # 3, 6, and then 7, which is no multiple
    keep_3, keep_6 = 0.8 * (3 / 7) ** 3, 0.8 * (6 / 7) ** 3
    at_3 = (1 - keep_3) * 3
    at_6 = keep_6 * at_3 + (1 - keep_6) * (at_3 + 3)
    np.testing.assert_allclose(path[[2, 5, 6]], [(at_3, at_3), (at_6, at_6), (at_6, at_6)], rtol=1e-6)


def test_without_decay_nothing_is_kept():
    np.testing.assert_array_equal(run(1, 5, decay=0.0)[:, 0], np.arange(1, 6))
