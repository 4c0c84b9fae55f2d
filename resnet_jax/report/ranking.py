"""Ranks the entries of a study, and tells which differ significantly from the first."""

import math
from collections.abc import Mapping

from resnet_jax.runs.reader import RunReader
from resnet_jax.significance import mean_interval, paired_interval, t_test
from resnet_jax.typing import JsonDict


def rank(entries: Mapping[str, Mapping[int, RunReader]]) -> list[JsonDict]:
    """Returns entries by mean accuracy, the best first.

    The first entry is selected by its result, so its differences are corrected for all pairs of entries (Bonferroni): the
    probability of any false difference is at most 5 %, whichever entry comes first.

    Args:
      entries: {entry: {seed: finished run}}, all trained on the same data.

    Returns:
      For each entry with a run: 'entry', 'accuracy' and its 95 % t interval 'low' to 'high' over the 'n' seeds; 'behind', the
      mean difference to the first entry over the seeds that both have; 'p', corrected for all pairs, or None for fewer than two
      such seeds; 'apart', whether p is below 0.05.
    """
    finished = {name: runs for name, runs in entries.items() if runs}
    intervals = {name: mean_interval([run.result['accuracy'] for run in runs.values()]) for name, runs in finished.items()}
    order = sorted(finished, key=lambda name: -intervals[name].mean)
    rows: list[JsonDict] = []
    for name in order:
        first, runs, interval = finished[order[0]], finished[name], intervals[name]
        seeds, behind, p = sorted(first.keys() & runs.keys()), None, None
        if seeds and name != order[0]:
            step = 1 / min(runs[seed].result.get('count', math.inf) for seed in seeds)
            best, ours = ([part[seed].result['accuracy'] for seed in seeds] for part in (first, runs))
            difference = paired_interval(best, ours, step)
            behind = difference.mean
            p = min(1.0, t_test(difference) * len(order) * (len(order) - 1) / 2) if difference.n > 1 else None
        rows.append(
            {
                'entry': name,
                **{'accuracy': interval.mean, 'low': interval.low, 'high': interval.high, 'n': interval.n},
                **{'behind': behind, 'p': p, 'apart': p is not None and p < 0.05},
            }
        )
    return rows
