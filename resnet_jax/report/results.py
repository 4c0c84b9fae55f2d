"""A study's runs as results.json and results.csv: every run, and mean and interval over the seeds of each entry."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.report.runs import RunFiles
from resnet_jax.statistics import mean_interval, paired_interval


def collect(entries: Mapping[str, Mapping[int, RunFiles]], baseline: str | None = None) -> dict[str, Any]:
    """Returns what results.json holds.

    Args:
      entries: {entry: {seed: run}}; runs that are not finished count for nothing.
      baseline: the entry that the others are compared with, seed by seed; None: the first.

    Returns:
      'entries': {entry: {'status', 'runs', 'accuracy'}}, the last the mean, sd and 95 % t interval over seeds; 'status' is
      'run', 'partly run' or 'not run'. 'comparisons': {entry: difference to the baseline over common seeds, with
      'verdict', which names a winner only if the interval excludes 0}.
    """
    baseline = baseline or next(iter(entries))
    finished = {name: {seed: run for seed, run in runs.items() if run.result} for name, runs in entries.items()}
    found: dict[str, Any] = {'baseline': baseline, 'entries': {}, 'comparisons': {}}
    for name, runs in finished.items():
        accuracies = [run.result['accuracy'] for run in runs.values()]
        found['entries'][name] = {
            'status': 'run' if len(runs) == len(entries[name]) else 'partly run' if runs else 'not run',
            'accuracy': dataclasses.asdict(mean_interval(accuracies)) if accuracies else None,
            'runs': {
                str(seed): {
                    **run.result,
                    'parameters': run.model.get('parameters'),
                    'multiply_adds': run.model.get('multiply_adds'),
                    'images_per_second': run.images_per_second,
                    'environment': run.environment,
                }
                for seed, run in runs.items()
            },
        }
        seeds = sorted(runs.keys() & finished[baseline].keys())
        if name != baseline and seeds:
            pairs = [[part[seed].result['accuracy'] for seed in seeds] for part in (runs, finished[baseline])]
            interval = paired_interval(*pairs)
            verdict = 'one seed: says nothing of the recipe' if interval.n == 1 else 'no difference beyond the noise'
            if interval.excludes(0.0):
                verdict = 'better' if interval.mean > 0 else 'worse'
            found['comparisons'][name] = {**dataclasses.asdict(interval), 'seeds': seeds, 'verdict': verdict}
    return found


def write_results(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes results.json and results.csv, one line for each finished run, and returns their paths."""
    paths = [folder / 'results.json', folder / 'results.csv']
    paths[0].write_text(json.dumps(found, indent=1) + '\n')
    columns: Sequence[str] = (
        'accuracy',
        'test_views',
        'loss',
        'count',
        'epoch',
        'step',
        'seconds',
        'parameters',
        'images_per_second',
    )
    with paths[1].open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['entry', 'seed', *columns])
        for name, entry in found['entries'].items():
            for seed, run in entry['runs'].items():
                writer.writerow([name, seed, *(run.get(column) for column in columns)])
    return paths
