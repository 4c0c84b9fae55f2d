import jax
from benchmark_support import config

from resnet_jax.benchmark import ours


def test_the_steps_that_are_timed_are_those_of_a_run():
    subject = ours.Subject(config())
    facts = subject.describe()
    assert facts['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(subject._state.params))
    subject.compile('train')
    subject.compile('eval')
    assert subject.train(3) > 0 and int(subject._state.step) == 3
    assert subject.train(facts['steps_per_epoch'] + 2) > 0 and int(subject._state.step) == facts['steps_per_epoch'] + 5
    assert subject.eval(2) > 0
