import jax
import jax.numpy as jnp

from resnet_jax.benchmark.hlo import step_kernels


def test_bytes_of_a_step_by_hand():
    """A step reads 1,000 numbers, in one operation and in another, and writes them twice; the rest is the counter."""

    def step(i, x):
        return jax.lax.sort(x * i)

    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 9, step, x)).lower(jnp.zeros(1000)).compile()
    moved = sum(kernel.read + kernel.written for kernel in step_kernels(compiled.as_text()))
    assert 16_000 <= moved <= 16_100
