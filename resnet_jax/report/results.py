"""Writes a study's results.json and results.csv: every run, and for each entry the mean and interval over seeds."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.report.ranking import rank
from resnet_jax.runs.reader import RunReader
from resnet_jax.runtime.files import write_atomically
from resnet_jax.significance import compare_answers, holm, image_interval, mean_interval, paired_interval, t_test
from resnet_jax.typing import Json, JsonDict

BETTER, WORSE = 'better', 'worse'
ONE_SEED = 'one seed: says nothing of the recipe'
NOISE = 'no difference established'
DECIDED = 'decided'
_COLUMNS = (
    *(
        'accuracy',
        'tta',
        'loss',
        'ece',
        'count',
        'epoch',
        'step',
        'train_accuracy',
        'train_loss',
        'seconds',
        'images_per_second',
    ),
    *('iteration_seconds', 'parameters', 'multiply_adds', 'state_bytes', 'scratch_bytes'),
)


def collect(study: Json, entries: Mapping[str, Mapping[int, RunReader]]) -> JsonDict:
    """Returns the contents of results.json.

    Args:
      study: a study for `study.entries.expand`, with a 'name'. Each other entry is compared, seed by seed, with its
        'baseline', by default the study's 'baseline' (default: the first entry). An entry's 'expected' and the study's
        'published' series are copied to the results. 'looks' (default 1) is the number of times that the differences are
        tested while the study runs, so that an entry can end when it is decided: each test has the level 0.05 / looks.
      entries: {entry: {seed: run}}; unfinished runs are not counted.

    Returns:
      'name', 'baseline', 'published', 'looks' and:
      'ranking': the baseline and the entries that are compared with it, as `ranking.rank` returns them.
      'entries': {entry: {'status': 'run', 'decided', 'partly run', 'not run' or 'failed', 'baseline', 'config', 'runs': {seed:
        figures}, 'failed': {seed: reason}, 'accuracy': mean, sd and 95 % t interval over seeds, or None, 'expected'}}.
      'comparisons': {entry: {'baseline', 'seeds', the mean difference and its t interval, 'pairs': {seed: `compare_answers`
        of the two networks, with 'p_holm', p corrected for all pairs of the study (Holm 1979)}, 'images': the mean
        difference of the networks of these seeds and its interval over test images, 'p': p of the t test over seeds,
        'p_holm': p corrected for all entries of the study, 'verdict'}}. The verdict is 'better' or 'worse' only if 'p_holm'
        is below 0.05 / looks and the interval over images excludes 0 too.
    """
    first = study.get('baseline') or next(iter(entries))
    finished = {name: {seed: run for seed, run in runs.items() if run.result} for name, runs in entries.items()}
    looks = study.get('looks', 1)
    results: JsonDict = {'name': study.get('name', ''), 'baseline': first, 'entries': {}, 'comparisons': {}}
    results |= {'published': study.get('published', {}), 'looks': looks}
    baselines = {name: study.get('entries', {}).get(name, {}).get('baseline', first) for name in entries}
    results['ranking'] = rank({name: runs for name, runs in finished.items() if baselines[name] == first})
    for name, runs in finished.items():
        accuracies = [run.result['accuracy'] for run in runs.values()]
        failed = {str(seed): run.failed['reason'] for seed, run in entries[name].items() if run.failed.get('reason')}
        complete = 'run' if len(runs) == len(entries[name]) else 'partly run' if runs else 'failed' if failed else 'not run'
        results['entries'][name] = {
            'status': complete,
            'baseline': baselines[name],
            'config': next((run.config for run in [*runs.values(), *entries[name].values()] if run.config), {}),
            'accuracy': dataclasses.asdict(mean_interval(accuracies)) if accuracies else None,
            'runs': {str(seed): _figures(run) for seed, run in runs.items()},
            'failed': failed,
            'expected': study.get('entries', {}).get(name, {}).get('expected'),
        }
    for name, runs in finished.items():
        baseline = baselines[name]
        seeds = sorted(runs.keys() & finished.get(baseline, {}).keys())
        if name != baseline and seeds:
            results['comparisons'][name] = _compare(runs, finished[baseline], seeds) | {'baseline': baseline}
    pairs = [pair for compared in results['comparisons'].values() for pair in compared['pairs'].values()]
    for pair, corrected in zip(pairs, holm([pair['p'] for pair in pairs]), strict=True):
        pair['p_holm'] = corrected
    several = [compared for compared in results['comparisons'].values() if compared['p'] is not None]
    for compared, corrected in zip(several, holm([compared['p'] for compared in several]), strict=True):
        compared['p_holm'] = corrected
        images = compared['images']
        certain = images is None or images['low'] > 0 or images['high'] < 0
        compared['verdict'] = (BETTER if compared['mean'] > 0 else WORSE) if corrected < 0.05 / looks and certain else NOISE
    decided = {name for name, compared in results['comparisons'].items() if compared['verdict'] in (BETTER, WORSE)}
    waiting = {baselines[name] for name in entries if name not in decided and name != baselines[name]}
    for name, entry in results['entries'].items():
        ended = name in decided or (name in baselines.values() and name not in waiting)
        if looks > 1 and entry['status'] == 'partly run' and ended:
            entry['status'] = DECIDED
    return results


def _figures(run: RunReader) -> JsonDict:
    train = {key: rows[-1][1] for key in ('accuracy', 'loss') if (rows := run.rows('train', key))}
    return {
        **run.result,
        'ece': run.evaluation.get('calibration', {}).get('ece'),
        'per_class_accuracy': run.evaluation.get('per_class_accuracy'),
        'train_accuracy': train.get('accuracy'),
        'train_loss': train.get('loss'),
        'parameters': run.model.get('parameters'),
        'multiply_adds': run.model.get('multiply_adds'),
        'images_per_second': run.images_per_second,
        'iteration_seconds': run.iteration_seconds,
        **run.memory,
        'data_fingerprint': run.fingerprint,
        'test': {key: run.rows('test', key) for key in ('accuracy', 'loss')},
        'gradients': [{'step': step, 'norms': norms} for step, norms in _ends(run.rows('gradients', 'norms'))],
        'environment': run.environment,
    }


def _ends(rows: Sequence[tuple[int, object]]) -> list[tuple[int, object]]:
    """Returns the first and the last row."""
    return [*rows[:1], *rows[1:][-1:]]


def _compare(runs: Mapping[int, RunReader], baseline: Mapping[int, RunReader], seeds: Sequence[int]) -> JsonDict:
    first, second = ([part[seed].result['accuracy'] for seed in seeds] for part in (runs, baseline))
    interval = paired_interval(first, second, step=1 / min(runs[seed].result.get('count', math.inf) for seed in seeds))
    pairs, differences = {}, []
    for seed in seeds:
        a, b = runs[seed], baseline[seed]
        right, other = a.correct, b.correct
        if right is not None and other is not None and a.fingerprint == b.fingerprint and right.shape == other.shape:
            pairs[str(seed)] = compare_answers(right, other)
            differences.append(right.astype(float) - other)
    images = None
    if differences and len({len(values) for values in differences}) == 1:
        images = dataclasses.asdict(image_interval(np.mean(differences, axis=0)))
    p = t_test(interval) if interval.n > 1 else None
    return {
        **dataclasses.asdict(interval),
        'seeds': list(seeds),
        'pairs': pairs,
        'images': images,
        'p': p,
        'p_holm': None,
        'verdict': ONE_SEED,
    }


def _flat(config: Json) -> JsonDict:
    """Returns fields and values; keyword arguments are fields such as 'model_kwargs.stem'."""
    flat: JsonDict = {}
    for field, value in config.items():
        flat |= {f'{field}.{key}': item for key, item in value.items()} if isinstance(value, Mapping) else {field: value}
    return flat


def _inert(cell: object) -> object:
    """Returns a cell of a table, changed so that no spreadsheet interprets its text as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(('=', '+', '-', '@')) else cell


def write_results(results: Json, folder: Path) -> list[Path]:
    """Writes results.json and results.csv, and returns their paths.

    The table has a line for each finished or failed run, and a column for each field in which the entries' configs differ.
    """
    paths = [folder / 'results.json', folder / 'results.csv']
    write_atomically(paths[0], json.dumps(results, indent=1, allow_nan=False) + '\n')
    table = io.StringIO(newline='')
    writer = csv.writer(table)
    configs = {name: _flat(entry['config']) for name, entry in results['entries'].items()}
    known = dict.fromkeys(field for config in configs.values() for field in config if field != 'seed')
    varied = [field for field in known if len({str(config.get(field)) for config in configs.values() if config}) > 1]
    writer.writerow(['entry', 'seed', 'failed', *(f'config.{field}' for field in varied), *_COLUMNS])
    for name, entry in results['entries'].items():
        fields = [configs[name].get(field) for field in varied]
        for seed in dict.fromkeys([*entry['runs'], *entry['failed']]):
            run = entry['runs'].get(seed, {})
            cells = [name, seed, entry['failed'].get(seed, ''), *fields, *(run.get(column) for column in _COLUMNS)]
            writer.writerow(map(_inert, cells))
    write_atomically(paths[1], table.getvalue())
    return paths
