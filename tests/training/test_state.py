import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from resnet_jax.training.state import create_train_state

pytestmark = pytest.mark.usefixtures('quick_compilation')

TX = optax.sgd(0.1, 0.9)


@pytest.fixture(scope='module')
def state():
    return create_train_state(tiny.WithBatchNorm(), TX, (2, 3, 1), 7, ema=True)


def test_shapes_and_dtypes(state):
    assert state.step.dtype == jnp.int32 and state.step.shape == () and state.step == 0
    assert state.params['fc']['kernel'].shape == (6, 3)
    assert set(state.batch_stats['bn']) == {'mean', 'var'}
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, state.ema))} == {jnp.dtype('float32')}
    assert jax.tree.structure(state.opt_state[0].trace) == jax.tree.structure(state.params)
    assert set(state.variables) == {'params', 'batch_stats'}
    assert state.variables['params'] is state.params


def test_the_average_starts_as_a_copy_with_memory_of_its_own(state):
    """The state is donated to the step: two leaves in one buffer would be given away twice."""
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.variables)
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_the_same_seed_gives_the_same_state_and_another_another(state):
    again = create_train_state(tiny.WithBatchNorm(), TX, (2, 3, 1), 7, ema=True)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    other = create_train_state(tiny.WithBatchNorm(), TX, (2, 3, 1), 8, ema=True)
    assert not np.array_equal(other.params['fc']['kernel'], state.params['fc']['kernel'])


def test_a_network_without_batch_norm():
    state = create_train_state(tiny.Linear(), TX, (2, 2, 1), 0)
    assert state.batch_stats == {} and state.ema == {}
    assert state.variables == {'params': state.params, 'batch_stats': {}}
