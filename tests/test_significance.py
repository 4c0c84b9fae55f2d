import math

import numpy as np
import pytest
import scipy.stats

from resnet_jax.significance import (
    bootstrap_difference,
    compare_answers,
    holm,
    image_interval,
    mcnemar,
    mean_interval,
    paired_interval,
    t_quantile,
    t_test,
    wilson_interval,
)


@pytest.mark.parametrize('degrees', [1, 2, 3, 4, 5, 9, 30, 99, 200])
def test_t_quantile_is_scipys(degrees):
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-9)


def test_mean_interval_by_hand():
    """3, 5, 7: mean 5, sd 2, t(2) = 4.3027, half width 4.3027 * 2 / sqrt(3) = 4.9683."""
    interval = mean_interval([3.0, 5.0, 7.0])
    assert (interval.mean, interval.sd, interval.n, interval.kind) == (5.0, 2.0, 3, 't')
    assert interval.high - 5 == pytest.approx(4.9683, abs=1e-4) == 5 - interval.low


def test_one_seed_has_no_interval():
    interval = mean_interval([0.8])
    assert (interval.mean, interval.low, interval.high, interval.sd, interval.n) == (0.8, None, None, None, 1)


def test_pairs_take_out_what_seeds_share():
    paired = paired_interval([0.71, 0.75, 0.79], [0.70, 0.74, 0.78])
    assert paired.mean == pytest.approx(0.01) and paired.low > 0
    with pytest.raises(ValueError):
        paired_interval([1.0, 2.0], [1.0])


def test_differences_of_rounded_figures_deviate_at_least_by_rounding():
    """Twice 0.01 apart, of multiples of 0.01: sd 0.01 / sqrt(6), t(1) = 12.706, half width 12.706 * 0.004082 / sqrt(2)."""
    coarse = paired_interval([0.71, 0.72], [0.70, 0.71], step=0.01)
    assert coarse.high - coarse.mean == pytest.approx(0.03668, abs=1e-5) and coarse.low < 0
    fine = paired_interval([0.71, 0.75], [0.70, 0.71], step=0.01)
    assert fine == paired_interval([0.71, 0.75], [0.70, 0.71])


def test_t_test_is_scipys():
    first, second = [0.81, 0.79, 0.84, 0.80], [0.78, 0.79, 0.80, 0.79]
    assert t_test(paired_interval(first, second)) == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue)
    assert t_test(paired_interval([0.5, 0.6], [0.5, 0.6])) == 1.0 and t_test(paired_interval([1.0, 2.0], [0.0, 1.0])) == 0.0
    with pytest.raises(ValueError):
        t_test(mean_interval([0.5]))


def test_an_interval_over_images_by_hand():
    """1, 0, 0, -1/2, 0: mean 0.1, squared deviations 0.81, 0.01, 0.01, 0.36, 0.01."""
    actual = image_interval(np.array([1.0, 0.0, 0.0, -0.5, 0.0]))
    assert (actual.mean, actual.n) == (pytest.approx(0.1), 5)
    assert actual.high - actual.mean == pytest.approx(1.96 * math.sqrt(1.2 / 4 / 5), rel=1e-4)
    with pytest.raises(ValueError):
        image_interval(np.array([]))


@pytest.mark.parametrize(('correct', 'count'), [(0, 10), (10, 10), (7512, 10_000), (1, 3)])
def test_wilson_is_scipys(correct, count):
    expected = scipy.stats.binomtest(correct, count).proportion_ci(method='wilson')
    interval = wilson_interval(correct, count)
    assert interval.mean == correct / count
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(('b', 'c'), [(0, 0), (1, 0), (5, 5), (10, 2), (300, 240), (2000, 2200), (5000, 0)])
def test_mcnemar_is_the_binomial_test(b, c):
    expected = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_by_hand():
    """10 of 12: 2 (1 + 12 + 66) / 4096."""
    assert mcnemar(10, 2) == 2 * 79 / 4096


def test_bootstrap_agrees_with_resampling_example_by_example():
    rng = np.random.default_rng(5)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.7
    interval = bootstrap_difference(first, second)
    difference = first.astype(int) - second.astype(int)
    slow = np.array([difference[rng.integers(0, 400, 400)].mean() for _ in range(4000)])
    assert interval.mean == difference.mean()
    np.testing.assert_allclose((interval.low, interval.high), np.quantile(slow, [0.025, 0.975]), atol=0.006)
    assert interval == bootstrap_difference(first, second)  # a function of its arguments


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 is not below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_compare_answers():
    first = np.array([True] * 90 + [False] * 10)
    second = np.array([True] * 80 + [False] * 15 + [True] * 5)
    actual = compare_answers(first, second)
    counts = {'count': 100, 'both': 80, 'only_first': 10, 'only_second': 5, 'neither': 5}
    assert {name: actual[name] for name in counts} == counts
    assert actual['difference'] == 0.05
    assert actual['p'] == mcnemar(10, 5) > 0.05 and not actual['significant']
    assert actual['low'] < 0 < actual['high'] and not math.isnan(actual['low'])


@pytest.mark.parametrize(
    'wrong',
    [
        lambda: mean_interval([]),
        lambda: t_quantile(0),
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: mcnemar(-1, 0),
        lambda: bootstrap_difference(np.ones(2, bool), np.ones(3, bool)),
        lambda: bootstrap_difference(np.ones(0, bool), np.ones(0, bool)),
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError):
        wrong()
