import numpy as np
from benchmark_support import config

from resnet_jax.benchmark import measure
from resnet_jax.benchmark.measure import interleave, on_random_data, summary


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


def test_multiply_adds_and_bytes_by_hand():
    facts = {'train_multiply_adds': 6.0, 'eval_multiply_adds': 2.0, 'eval_batch_size': 10}
    row, rates = {'name': '', 'matrix_products': {'ours': {'float32': 1000.0}}, 'facts': facts, 'memory_rate': 1200.0}, []
    row['compile'] = {'train': {'step_bytes': 300}, 'eval': {'step_bytes': 60}}

    def side(what, steps, variant):
        rates.append(what)
        return steps * 0.5

    effort = measure.Effort(rounds=1, seconds=0.5, steps=('train', 'eval'))
    measure._measure_steps(row, {'dtype': 'float32', 'batch_size': 10}, side, None, effort, print)
    assert row['train']['images_per_second']['median'] == 20 == row['eval']['images_per_second']['median']
    assert np.isclose(row['train']['share_of_matrix_product'], 3 * 2 * 20 / 1000)
    assert np.isclose(row['eval']['share_of_matrix_product'], 2 * 20 / 1000)
    assert row['train']['share_of_memory_rate'] == 300 * 2 / 1200 and row['eval']['share_of_memory_rate'] == 60 * 2 / 1200
