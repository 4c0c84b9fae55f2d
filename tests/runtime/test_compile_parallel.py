"""The CUDA graph of a program: tried where there is a GPU, and left where it fails. XLA takes its options on a CPU too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.runtime import devices


@pytest.fixture
def compiled_with(monkeypatch):
    """The options of each compilation, on what says that it is a GPU."""
    used, compile = [], jax.stages.Lowered.compile

    def record(lowered, compiler_options=None):
        used.append(compiler_options)
        return compile(lowered, compiler_options=compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, 'compile', record)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    return used


def add(state, positions, count):
    return jax.lax.while_loop(lambda carry: carry[1] < count, lambda carry: (carry[0] + 1, carry[1] + 1), (state, 0))[0]


def compiled(cuda_graph=True):
    run = devices.parallel(add, in_axes=(None, 0, None), donate_argnums=(0,))
    state, positions = devices.replicate(jnp.zeros(3)), devices.device_positions(jax.device_count())
    program = devices.compile_parallel(run, state, positions, np.int32(0), cuda_graph=cuda_graph)
    return program(state, positions, np.int32(2))  # the trial has left the state


def test_one_graph_on_a_gpu_unless_it_is_turned_off(compiled_with, monkeypatch):
    assert compiled().tolist() == [2, 2, 2] and compiled_with == [devices.CUDA_GRAPH]
    assert compiled(cuda_graph=False).tolist() == [2, 2, 2] and compiled_with[1:] == [None]
    monkeypatch.undo()
    assert compiled().tolist() == [2, 2, 2] and jax.default_backend() == 'cpu'


def test_without_where_xla_does_not_know_the_option(compiled_with, monkeypatch, caplog):
    monkeypatch.setattr(devices, 'CUDA_GRAPH', {'xla_gpu_enable_command_buffer': 'WHILE,UNKNOWN'})
    with caplog.at_level('INFO'):
        assert compiled().tolist() == [2, 2, 2]
    assert compiled_with == [devices.CUDA_GRAPH, None] and 'UNKNOWN' in caplog.text


def test_without_where_the_device_cannot_run_it(compiled_with, monkeypatch, caplog):
    def fails(*arguments):
        raise RuntimeError('CUDA_ERROR_NOT_SUPPORTED')

    call = jax.stages.Compiled.__call__
    monkeypatch.setattr(
        jax.stages.Compiled, '__call__', lambda self, *args: (fails if len(compiled_with) == 1 else call)(*((self, *args)))
    )
    with caplog.at_level('INFO'):
        assert compiled().tolist() == [2, 2, 2]
    assert compiled_with == [devices.CUDA_GRAPH, None] and 'CUDA_ERROR_NOT_SUPPORTED' in caplog.text
