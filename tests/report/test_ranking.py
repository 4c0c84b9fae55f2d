import dataclasses

import pytest
import scipy.stats

from resnet_jax.report.ranking import rank
from resnet_jax.runs.reader import read_run


@pytest.fixture
def entry(tmp_path):
    empty = read_run(tmp_path)
    return lambda *accuracies: {
        seed: dataclasses.replace(empty, result={'accuracy': accuracy, 'count': 10_000})
        for seed, accuracy in enumerate(accuracies)
    }


def test_the_first_is_tested_against_the_others_as_one_of_all_pairs(entry):
    best, near, far = (0.90, 0.92, 0.91), (0.89, 0.92, 0.91), (0.80, 0.81, 0.80)
    rows = rank({'far': entry(*far), 'best': entry(*best), 'near': entry(*near), 'none': {}})
    assert [row['entry'] for row in rows] == ['best', 'near', 'far']
    assert rows[0]['accuracy'] == pytest.approx(0.91) and rows[0]['behind'] is rows[0]['p'] is None
    interval = scipy.stats.t.interval(0.95, 2, loc=0.91, scale=0.01 / 3**0.5)
    assert (rows[0]['low'], rows[0]['high']) == pytest.approx(interval)
    for row, accuracies in zip(rows[1:], (near, far), strict=True):
        assert row['p'] == pytest.approx(min(1, 3 * scipy.stats.ttest_rel(best, accuracies).pvalue))  # three pairs
    assert [row['apart'] for row in rows] == [False, False, True]


def test_one_seed_in_common_settles_nothing(entry):
    rows = rank({'a': entry(0.9), 'b': entry(0.5, 0.6)})
    assert rows[1]['behind'] == pytest.approx(0.4) and rows[1]['p'] is None and not rows[1]['apart']
    assert rows[0]['low'] is None
