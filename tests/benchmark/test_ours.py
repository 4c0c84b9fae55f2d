import jax
import pytest
from benchmark_support import config

from resnet_jax.benchmark import ours
from resnet_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.mark.slow
def test_the_steps_that_are_timed_are_those_of_a_run():
    steps = ours.Steps(config())
    facts = steps.describe()
    assert facts['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(steps._state.params))
    steps.compile('train')
    steps.compile('eval')
    assert steps.train(3) > 0 and int(steps._state.step) == 3
    assert steps.train(facts['steps_per_epoch'] + 2) > 0 and int(steps._state.step) == facts['steps_per_epoch'] + 5
    assert steps.eval(2) > 0


def test_the_memory_has_a_rate():
    assert ours.Steps(config()).memory_rate(2**20, 0.01) > 0


@pytest.mark.slow
def test_steps_that_are_not_made_are_not_counted():
    """After a step that is not finite the others are passed over."""
    steps = ours.Steps(config(learning_rate=1e30, schedule='constant', warmup_epochs=0.0))
    steps.compile('train')
    with pytest.raises(UserError, match='training diverges'):
        steps.train(20)


def test_work_by_hand_with_a_proxy_and_views():
    """Half of each batch of 64 is trained on; the proxy sees it all, and trains at each second step; two views."""
    plain = ours.Steps(config()).describe()
    proxy = {
        'proxy_model': 'resnet8',
        'proxy_model_kwargs': {'num_filters': 4},
        'selected_fraction': 0.5,
        'proxy_update_every': 2,
    }
    facts = ours.Steps(config(**proxy, tta='mirror')).describe()
    work = plain['multiply_adds']
    assert (plain['train_multiply_adds'], plain['eval_multiply_adds']) == (3 * work, work)
    assert (facts['train_multiply_adds'], facts['eval_multiply_adds']) == (0.5 * 3 * work + 2 * work, 2 * work)
    assert plain['eval_batch_size'] == 360  # the whole test set of the digits, not the 1,000 asked for
