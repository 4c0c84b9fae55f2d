"""Confidence intervals over seeds and over test images, and tests of paired predictions, based on SciPy.

Importing `scipy.stats` takes 1.6 s of CPU time, which would slow down every run's report. So it is imported only where it is
used, and functions that the report of a run needs use `scipy.special` instead.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from resnet_jax.typing import JsonDict

_NORMAL_975 = statistics.NormalDist().inv_cdf(0.975)


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
      mean: the estimate.
      low, high: the ends of the interval; both None for a single observation.
      sd: sample standard deviation (n - 1); None for a single observation, and for 'wilson' and 'bootstrap'.
      n: number of observations.
      kind: 't' over seeds; 'images', 'wilson' or 'bootstrap' over test images; 'none' for a single seed.
    """

    mean: float
    low: float | None
    high: float | None
    sd: float | None
    n: int
    kind: str


def t_quantile(degrees: int) -> float:
    """Returns the t for which P(|T| < t) = 0.95, where T has Student's distribution with `degrees` degrees of freedom.

    Raises:
      ValueError: degrees is below 1.
    """
    if degrees < 1:
        raise ValueError(f'{degrees} degrees of freedom; expected at least 1')
    from scipy import special

    return float(special.stdtrit(degrees, 0.975))


def mean_interval(values: Sequence[float], least_sd: float = 0.0) -> Interval:
    """Returns mean, standard deviation and 95 % t interval of independent observations, such as one accuracy per seed.

    Args:
      least_sd: lower bound of the standard deviation.

    Raises:
      ValueError: there are no values.
    """
    n = len(values)
    if not n:
        raise ValueError('no values; expected at least one')
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, None, 1, 'none')
    sd = max(least_sd, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n, 't')


def paired_interval(first: Sequence[float], second: Sequence[float], step: float = 0.0) -> Interval:
    """Returns the `mean_interval` of first - second; both have the same seeds in the same order.

    Args:
      step: all values are multiples of it, such as 1 / (number of test images). A few differences of such coarse values are
        easily equal by chance, with deviation 0, so the deviation is set to at least that of rounding, step / sqrt(6) (Sheppard
        1898).

    Raises:
      ValueError: there are no values, or the lengths differ.
    """
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], step / math.sqrt(6))


def t_test(interval: Interval) -> float:
    """Returns the two-sided p-value of an interval over seeds, for the null hypothesis that the mean over all seeds is 0.

    Raises:
      ValueError: the interval has a single observation or is not of kind 't'.
    """
    if interval.sd is None or interval.kind != 't':
        raise ValueError('an interval without a deviation; expected one of at least two observations')
    if not interval.sd:
        return float(interval.mean == 0)
    from scipy import special

    return float(2 * special.stdtr(interval.n - 1, -abs(interval.mean) * math.sqrt(interval.n) / interval.sd))


def image_interval(differences: np.ndarray) -> Interval:
    """Returns the 95 % interval of a mean over test images: its uncertainty from the choice of images, by normal approximation.

    Args:
      differences: float `[n]`: for each image, the share of one recipe's networks that got it right minus that of another
        recipe.

    Raises:
      ValueError: there are no images.
    """
    n = len(differences)
    if not n:
        raise ValueError('no images; expected at least one')
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1)) if n > 1 else 0.0
    half = _NORMAL_975 * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n, 'images')


def wilson_interval(correct: int, count: int) -> Interval:
    """Returns the 95 % interval of a proportion (Wilson, 1927): a network's uncertainty from the choice of test images.

    Raises:
      ValueError: unless 0 <= correct <= count and count > 0.
    """
    if not 0 <= correct <= count or not count:
        raise ValueError(f'{correct} of {count}; expected 0 <= correct <= count, and at least one')
    z = _NORMAL_975
    share, scale = correct / count, 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return Interval(share, centre - half, centre + half, None, count, 'wilson')


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (1947): a binomial test with probability 1/2.

    Args:
      only_first, only_second: numbers of examples that only the first or only the second of two networks got right.

    Raises:
      ValueError: a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f'{only_first} and {only_second} examples; expected counts')
    from scipy import stats

    n = only_first + only_second
    return float(stats.binomtest(only_first, n).pvalue) if n else 1.0


def bootstrap_difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """Returns the 95 % bootstrap percentile interval of the difference between two accuracies on the same examples.

    The counts of the differences +1, 0 and -1 in a resample are multinomial, so the counts are drawn directly. This is faster
    and gives the same distribution.

    Args:
      first, second: bool `[n]`: whether each network got each example right.

    Returns:
      An interval of kind 'bootstrap' with the mean of first - second.

    Raises:
      ValueError: the shapes differ, or there are no examples.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f'answers to {first.shape} and {second.shape} examples; expected as many, and at least one')
    n = len(first)
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    drawn = np.random.default_rng(0).multinomial(n, [won / n, lost / n, (n - won - lost) / n], 10_000)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Interval((won - lost) / n, float(low), float(high), None, n, 'bootstrap')


def compare_answers(first: np.ndarray, second: np.ndarray) -> JsonDict:
    """Compares two networks' predictions for the same examples.

    Args:
      first, second: bool `[n]`: whether each network got each example right.

    Returns:
      'count', 'both', 'only_first', 'only_second' and 'neither'; 'difference' of the accuracies, with 'low' and 'high' of its
      bootstrap interval; 'p' of the exact McNemar test; and 'significant', whether p < 0.05.

    Raises:
      ValueError: see `bootstrap_difference`.
    """
    interval = bootstrap_difference(first, second)
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    p = mcnemar(won, lost)
    return {
        'count': len(first),
        'both': int((first & second).sum()),
        'only_first': won,
        'only_second': lost,
        'neither': int((~first & ~second).sum()),
        'difference': interval.mean,
        'low': interval.low,
        'high': interval.high,
        'p': p,
        'significant': p < 0.05,
    }


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple tests.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: of m values sorted in ascending order, the i-th
    (counted from 0) becomes the largest (m - j) p_j for j <= i, but at most 1.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = largest
    return corrected
