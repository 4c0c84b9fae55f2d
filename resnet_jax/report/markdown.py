"""Turns a study's results.json into Markdown tables."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from resnet_jax.report.markup import p_value, views
from resnet_jax.report.overview import among, reason, training
from resnet_jax.typing import Json


def tables(results: Json) -> str:
    """Returns all tables of a study, and the hardware, versions and data of its runs."""
    parts = [_entries(results), _best(results), _cost(results), _published(results), _gradients(results), _made_on(results)]
    return '\n'.join(part for part in parts if part)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(cell.replace("|", "/") for cell in line)} |\n' for line in lines)


def _entries(results: Json) -> str:
    rows = []
    for name, entry in results['entries'].items():
        accuracy, compared, expected = entry['accuracy'], results['comparisons'].get(name), entry['expected']
        result = entry['status']
        if accuracy:
            spread = f' ± {100 * accuracy["sd"]:.2f}' if accuracy['sd'] is not None else ''
            marks = ''.join({views(run): None for run in entry['runs'].values()})
            interval = ''
            if accuracy['low'] is not None:
                interval = f', 95 % {100 * max(accuracy["low"], 0):.2f} to {100 * min(accuracy["high"], 1):.2f}'
            result = f'{100 * accuracy["mean"]:.2f}{spread} % (n = {accuracy["n"]}{interval}){marks}'
        elif entry['failed']:
            result = reason(next(iter(entry['failed'].values())))
        rows.append([name, training(entry['config']), _mean(entry, 'train_loss', '{:.3f}'), result, _difference(compared)])
        if any(other['expected'] for other in results['entries'].values()):
            rows[-1].insert(4, f'{expected["accuracy"]:.2f} % ({expected["source"]})' if expected else '-')
    header = ['entry', 'training', 'last training loss', 'test accuracy', 'difference in points']
    if rows and len(rows[0]) > len(header):
        header.insert(4, 'published')
    return _table(header, rows)


def _best(results: Json) -> str:
    """Returns a sentence on the entry with the highest mean accuracy; '' for results with one entry or without a ranking."""
    ranked = results.get('ranking', [])
    if len(ranked) < 2:
        return ''
    alike = ', '.join(row['entry'] for row in ranked[1:] if not row['apart'])
    first = f'{among(results)}{ranked[0]["entry"]} has the highest mean accuracy, {100 * ranked[0]["accuracy"]:.2f} %'
    return f'{first}; {f"the seeds cannot tell it from {alike}" if alike else "all others are worse"}.\n'


def _difference(compared: Json | None) -> str:
    if not compared:
        return '-'
    interval = ''
    if compared['low'] is not None:
        interval = f', 95 % {100 * max(compared["low"], -1):+.2f} to {100 * min(compared["high"], 1):+.2f}'
    pairs = ''
    if compared['pairs']:
        values = ', '.join(p_value(pair['p_holm']) for pair in compared['pairs'].values())
        pairs = f'; McNemar by seed p = {values}'
    return f'{100 * compared["mean"]:+.2f} to {compared["baseline"]}{interval}: {compared["verdict"]}{pairs}'


def _cost(results: Json) -> str:
    rows = [
        [
            name,
            str(len(entry['runs'])),
            _mean(entry, 'parameters', '{:,.0f}'),
            _mean(entry, 'multiply_adds', '{:,.0f}'),
            _mean(entry, 'state_bytes', '{:,.0f} MiB', 2**-20),
            _mean(entry, 'scratch_bytes', '{:,.0f} MiB', 2**-20),
            _mean(entry, 'images_per_second', '{:,.0f}'),
            _mean(entry, 'iteration_seconds', '{:,.1f}', 1000),
            _mean(entry, 'seconds', '{:,.0f} s'),
        ]
        for name, entry in results['entries'].items()
        if entry['runs']
    ]
    header = [
        'entry',
        'runs',
        'parameters',
        'multiply-adds',
        'state',
        'scratch',
        'images/s',
        'ms per iteration',
        'time of a run',
    ]
    return _table(header, rows) if rows else ''


def _mean(entry: Json, key: str, pattern: str, scale: float = 1) -> str:
    values = [run[key] for run in entry['runs'].values() if run.get(key) is not None]
    return pattern.format(scale * fmean(values)) if values else '-'


def _published(results: Json) -> str:
    """Returns a table of the mean test accuracy over seeds, at the iterations of a published series."""
    series = {name: dict(map(tuple, curve['accuracy'])) for name, curve in results['published'].items() if 'accuracy' in curve}
    ours: dict[str, dict[int, list[float]]] = {}
    for name, entry in results['entries'].items():
        for run in entry['runs'].values():
            for step, accuracy in run['test']['accuracy']:
                ours.setdefault(name, {}).setdefault(step, []).append(100 * accuracy)
    shared = sorted({step for curve in series.values() for step in curve} & {step for curve in ours.values() for step in curve})
    if not shared:
        return ''
    names = [name for name, curve in ours.items() if set(shared) & curve.keys()]
    rows = [
        [
            str(step),
            *(f'{curve[step]:.1f}' if step in curve else '-' for curve in series.values()),
            *(f'{fmean(ours[name][step]):.1f}' if step in ours[name] else '-' for name in names),
        ]
        for step in shared
    ]
    return 'Test accuracy in per cent by iteration:\n\n' + _table(['iteration', *series, *names], rows)


def _gradients(results: Json) -> str:
    """Returns a table of gradient norms of the first and the last convolution at the first and the last logged iteration."""
    rows = []
    for name, entry in results['entries'].items():
        logged = [run['gradients'] for run in entry['runs'].values() if run['gradients']]
        for place in range(2):
            parts = [curve[place]['norms'] for curve in logged if len(curve) > place]
            if parts:
                first, last = (fmean([norms[key] for norms in parts]) for key in _ends(parts[0]))
                steps = '/'.join(sorted({str(curve[place]['step']) for curve in logged if len(curve) > place}))
                rows.append([name, steps, f'{first:.3g}', f'{last:.3g}', f'{first / last:.3g}' if last else '-'])
    header = ['entry', 'iteration', 'gradient norm, first convolution', 'last convolution', 'ratio']
    return _table(header, rows) if rows else ''


def _ends(norms: Mapping[str, float]) -> tuple[str, str]:
    convolutions = [name for name in norms if '/conv' in name]

    def place(name: str) -> list[int]:
        return [int(part) for part in re.findall(r'\d+', name)]

    return min(norms, key=lambda name: (not name.startswith(('conv1', 'stem_conv1')), name)), max(convolutions, key=place)


def _made_on(results: Json) -> str:
    environments, data = set(), set()
    for entry in results['entries'].values():
        for run in entry['runs'].values():
            parts = dict(run['environment'])
            packages = parts.pop('packages', {})
            versions = ', '.join(f'{name} {version}' for name, version in packages.items() if name in ('jax', 'flax', 'optax'))
            environments.add(f'{parts.get("devices")} x {parts.get("device")}, {parts.get("cpu_cores")} cores, {versions}')
            data.add(
                f'{entry["config"].get("dataset")}, {run["count"]:,} test images, SHA-256 {run["data_fingerprint"][:12]}...'
            )
    if not environments:
        return ''
    return f'Run on {"; ".join(sorted(environments))}. Data: {"; ".join(sorted(data))}\n'
