import jax
import numpy as np
import pytest
import torch

from configs import quickstart, resnet20
from resnet_jax.benchmark import measure, ours, peer, worker
from resnet_jax.benchmark.measure import interleave, on_random_data, summary
from resnet_jax.errors import ConfigError, UserError
from resnet_jax.training.config import validate


def config(source=quickstart, **changes):
    values = source.get_config()
    values.update({'model_kwargs': {'num_filters': 4}, **changes})
    return on_random_data(validate(values))


def test_the_two_sides_take_turns_and_neighbours_are_compared(monkeypatch):
    monkeypatch.setattr(measure, '_PAUSE', 0)
    calls = []
    values = {'a': iter([10.0, 12.0, 9.0]), 'b': iter([5.0, 4.0, 6.0])}

    def side(name):
        return lambda: (calls.append(name), next(values[name]))[1]

    first, second, ratios = interleave(side('a'), side('b'), 3)
    assert calls == ['a', 'b'] * 3
    assert (first, second, ratios) == ([10, 12, 9], [5, 4, 6], [2, 3, 1.5])
    assert summary(ratios) == {'median': 2, 'low': 1.5, 'high': 3, 'n': 3}


def test_random_data_take_the_place_of_the_config_s():
    assert config()['dataset'] == 'synthetic_digits'
    assert on_random_data(config())['dataset'] == 'synthetic_digits'


def test_the_steps_that_are_timed_are_those_of_a_run():
    subject = ours.Subject(config())
    facts = subject.describe()
    assert facts['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(subject._state.params))
    subject.compile('train')
    subject.compile('eval')
    assert subject.train(3) > 0 and int(subject._state.step) == 3
    assert subject.train(facts['steps_per_epoch'] + 2) > 0 and int(subject._state.step) == facts['steps_per_epoch'] + 5
    assert subject.eval(2) > 0


def test_the_peer_takes_steps():
    subject = peer.Subject(config(resnet20, batch_size=8), 'cpu', compiled=False)
    (variant,) = [name for name in subject.describe()['variants'] if 'channels_last' in name]
    for what in ('train', 'eval'):
        assert getattr(subject, what)(steps=2, variant=variant) > 0


@pytest.mark.parametrize('all_decay', [True, False])
def test_the_peer_has_the_optimizer_of_the_config(all_decay):
    values = config(resnet20, momentum=0.8, nesterov=True, weight_decay=0.01, decay_norm_and_bias=all_decay)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    groups = peer._create_optimizer(model, values).param_groups
    found = {p.ndim: group['weight_decay'] for group in groups for p in group['params']}
    assert found == {2: 0.01, 1: 0.01 if all_decay else 0.0}
    assert all(group['momentum'] == 0.8 and group['nesterov'] for group in groups)
    assert sum(len(group['params']) for group in groups) == 4


@pytest.mark.parametrize(('field', 'value'), [('ema_decay', 0.9), ('test_views', 'mirror'), ('proxy_model', 'resnet8')])
def test_the_peer_refuses_what_it_does_not_have(field, value):
    with pytest.raises(ConfigError, match=f'the PyTorch peer has no {field}'):
        peer.Subject(config(**{field: value}), 'cpu', compiled=False)


def test_a_worker_answers_hands_on_errors_and_ends():
    with worker.Worker('torch', {}, config=config(resnet20), device='cpu', compiled=False) as other:
        assert other('matrix_products', size=32, seconds=0.05)['float32'] > 0
        process = other._process
    assert process.poll() is not None
    with pytest.raises(UserError, match='no PyTorch network to compare'):
        worker.Worker('torch', {}, config=config(resnet20, model='lenet5', model_kwargs={}), device='cpu', compiled=False)


def test_multiply_adds_by_hand():
    # A share of the matrix product's rate: 3 times the multiply-adds for a training step.
    row, rates = {'name': '', 'matrix_products': {'ours': {'float32': 1000.0}}, 'facts': {'multiply_adds': 2.0}}, []

    def side(what, steps, variant):
        rates.append(what)
        return steps * 0.5

    effort = measure.Effort(rounds=1, seconds=0.5, steps=('train', 'eval'))
    measure._measure_steps(row, {'dtype': 'float32', 'batch_size': 10, 'eval_batch_size': 10}, side, None, effort, print)
    assert row['train']['images_per_second']['median'] == 20 == row['eval']['images_per_second']['median']
    assert np.isclose(row['train']['share_of_matrix_product'], 3 * 2 * 20 / 1000)
    assert np.isclose(row['eval']['share_of_matrix_product'], 2 * 20 / 1000)
