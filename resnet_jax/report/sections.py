"""The parts of a report. Each returns escaped HTML and may add charts, which report.js draws."""

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.report.runs import RunFiles
from resnet_jax.statistics import compare_answers, wilson_interval

Runs = Sequence[RunFiles]
Charts = dict[str, Any]


def _section(name: str, title: str, caption: str, content: str) -> str:
    empty = '<p>Nothing recorded.</p>'
    return f'<section id="{name}"><h2>{title}</h2><p class="caption">{caption}</p>{content or empty}</section>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = '') -> str:
    """Cells are HTML."""
    head = ''.join(f'<th>{cell}</th>' for cell in header)
    body = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def _number(value: Any, pattern: str = '{:,}') -> str:
    return pattern.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else '-'


def _each(runs: Runs, content: Callable[[RunFiles], str]) -> str:
    parts = [(run.name, content(run)) for run in runs]
    return ''.join((f'<h3>{escape(name)}</h3>' if len(runs) > 1 else '') + part for name, part in parts if part)


def _image(pixels: np.ndarray, label: str) -> str:
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def study(results: Mapping[str, Any]) -> str:
    rows = []
    for name, entry in results['entries'].items():
        found, compared = entry['accuracy'], results['comparisons'].get(name)
        interval, difference = '-', '-'
        if found and found['low'] is not None:
            interval = f'{100 * found["low"]:.2f} to {100 * found["high"]:.2f} %, sd {100 * found["sd"]:.2f}'
        if compared:
            difference = f'{100 * compared["mean"]:+.2f}: {compared["verdict"]}'
        views = escape(''.join({_views(run): None for run in entry['runs'].values()}))
        mean = f'{100 * found["mean"]:.2f} % (n = {found["n"]}){views}' if found else '-'
        rows.append([escape(name), entry['status'], mean, interval, difference])
    caption = (
        'Mean test accuracy over seeds with its 95 % t interval, and the difference to the baseline, seed by seed: better or '
        'worse only where the interval of the difference excludes 0.'
    )
    header = ['entry', 'status', 'accuracy', '95 % interval over seeds', f'difference to {escape(results["baseline"])}']
    return _section('study', 'Entries', caption, _table(header, rows, 'text'))


def _views(found: Mapping[str, Any]) -> str:
    """A mark on an accuracy that tells it from one without test-time augmentation; text, not HTML."""
    views = found.get('test_views', 'none')
    return '' if views == 'none' else f' (views averaged: {views})'


def _selected(config: Mapping[str, Any]) -> str:
    """What the loss in training is of, unless of all examples."""
    share = config.get('selected_fraction')
    return f' (hardest {100 * share:g} %)' if config.get('proxy_model') and isinstance(share, int | float) else ''


def summary(runs: Runs) -> str:
    rows = []
    for run in runs:
        result = run.result
        accuracy, interval = '-', '-'
        if result:
            accuracy = f'{100 * result["accuracy"]:.2f} %{escape(_views(result))}'
            found = wilson_interval(round(result['accuracy'] * result['count']), result['count'])
            interval = f'{100 * (found.low or 0):.2f} to {100 * (found.high or 0):.2f} %'
        rows.append(
            [
                escape(run.name),
                escape(str(run.config.get('model', '-'))),
                _number(run.model.get('parameters')),
                _number(run.model.get('multiply_adds')),
                _number(result.get('epoch')),
                accuracy if result else 'not finished',
                interval,
                _number(result.get('seconds'), '{:,.0f} s'),
                _number(run.images_per_second, '{:,.0f}'),
            ]
        )
    header = ['run', 'model', 'parameters', 'multiply-adds', 'epoch', 'test accuracy', '95 % interval', 'time', 'images/s']
    caption = (
        'The interval (Wilson) is what the choice of test images leaves open about each trained network. What another seed '
        'would give is not in it. Time includes evaluation.'
    )
    if any(map(_views, (run.result for run in runs))):
        caption += (
            ' Views averaged: the logits are the mean over several views of each test image, here and in every figure below '
            'of that run; compare it only with the like.'
        )
    return _section('summary', 'Summary', caption, _table(header, rows))


def agreement(runs: Runs) -> str:
    known = [(run, run.correct) for run in runs[:8]]
    rows = []
    for (a, right), (b, other) in itertools.combinations(known, 2):
        if right is None or other is None or a.fingerprint != b.fingerprint or right.shape != other.shape:
            continue
        found = compare_answers(right, other)
        verdict = 'larger than chance' if found['significant'] else 'no difference beyond chance'
        rows.append(
            [
                f'{escape(a.name)} - {escape(b.name)}',
                f'{100 * found["difference"]:+.2f}',
                f'{100 * found["low"]:+.2f} to {100 * found["high"]:+.2f}',
                f'{found["p"]:.2g}',
                verdict,
            ]
        )
    if len(runs) < 2:
        return ''
    caption = (
        'Differences in points on the same test images, with a paired bootstrap interval and the exact McNemar test. They '
        'compare trained networks; whether a recipe is better takes several seeds.'
    )
    return _section(
        'agreement', 'Differences', caption, _table(['runs', 'points', '95 % interval', 'p', ''], rows) if rows else ''
    )


def curves(runs: Runs, charts: Charts) -> str:
    content = ''
    for key, label, scale in (('accuracy', 'accuracy (%)', 100), ('loss', 'loss (nats)', 1)):
        series = []
        for run in runs:
            for split in ('train', 'validation', 'test'):
                rows = [row for row in run.metrics if row.get('split') == split and isinstance(row.get(key), int | float)]
                seconds = {row['step']: row.get('seconds') for row in run.timing}
                points = [[row['step'], scale * row[key], seconds.get(row['step'])] for row in rows]
                if points:
                    part = split + (_selected(run.config) if split == 'train' else _views(run.config))
                    series.append({'run': run.name, 'part': part, 'dashed': split == 'train', 'points': points})
        if series:
            charts[key] = {'series': series, 'x': 'iteration', 'y': label, 'label': f'{label} by iteration'}
            content += f'<h3>{label}</h3><div data-chart="{key}"></div>'
    caption = (
        'Dashed: training images, as augmented, averaged since the point before. Solid: images not trained on. A growing gap '
        'between them is overfitting. Point at a curve for its values; a click on a name hides the run.'
    )
    return _section('curves', 'Training', caption, content)


def classes(runs: Runs) -> str:
    def one(run):
        found = run.evaluation
        rows = []
        zipped = zip(*(found.get(k, []) for k in ('class_names', 'per_class_accuracy', 'per_class_precision')), strict=False)
        for name, accuracy, precision in zipped:
            bar = f'<span class="bar" style="width:{100 * (accuracy or 0):.1f}%"></span>'
            share = [_number(value and 100 * value, '{:.1f} %') for value in (accuracy, precision)]
            rows.append([escape(str(name)), *share, bar])
        return (
            _table(['class', 'accuracy', 'precision', ''], rows).replace('<td><span', '<td class="wide"><span') if rows else ''
        )

    caption = 'Accuracy: share of a class that is recognised. Precision: share of the answers naming it that are right.'
    return _section('classes', 'By class', caption, _each(runs, one))


def confusion(runs: Runs) -> str:
    def one(run):
        matrix, names = run.evaluation.get('confusion'), run.evaluation.get('class_names', [])
        if not matrix or len(names) > 20:
            return ''
        rows = []
        for name, counts in zip(names, matrix, strict=True):
            total = max(sum(counts), 1)
            cells = ''
            for count in counts:
                colour = '; color:#fff' if count > total / 2 else ''
                cells += f'<td class="cell" style="background:rgb(47 98 181 / {count / total:.2f}){colour}">{count}</td>'
            rows.append(f'<tr><td>{escape(str(name))}</td>{cells}</tr>')
        head = ''.join(f'<th>{escape(str(name)[:10])}</th>' for name in names)
        return f'<div class="scroll"><table><tr><th>true \\ predicted</th>{head}</tr>{"".join(rows)}</table></div>'

    caption = 'Counts of test images. Off the diagonal: which classes are taken for which.'
    return _section('confusion', 'Confusion matrix', caption, _each(runs, one))


def wrong(runs: Runs) -> str:
    def one(run):
        names = run.evaluation.get('class_names', [])
        if run.wrong is None:
            return ''
        parts = []
        for pixels, row in zip(run.wrong, run.evaluation.get('wrong', []), strict=False):
            predicted, label = str(names[row['predicted']]), str(names[row['label']])
            parts.append(
                f'<figure>{_image(pixels, label)}<figcaption>{escape(predicted)} {100 * row["confidence"]:.0f} %<br>'
                f'is {escape(label)}</figcaption></figure>'
            )
        return f'<div class="gallery">{"".join(parts)}</div>' if parts else ''

    caption = 'The wrong answers given with the highest probability. Some are mislabelled or ambiguous; the others are telling.'
    return _section('wrong', 'Most confidently wrong', caption, _each(runs, one))


def calibration(runs: Runs, charts: Charts) -> str:
    series: list[dict[str, Any]] = []
    rows = []
    for run in runs:
        found = run.evaluation.get('calibration')
        if found:
            bins = [one for one in found['bins'] if one['count']]
            series.append({'run': run.name, 'points': [[one['confidence'], one['accuracy']] for one in bins]})
            rows.append([escape(run.name), f'{100 * found["confidence"]:.2f} %', f'{100 * found["ece"]:.2f}'])
    if not series:
        return _section('calibration', 'Calibration', '', '')
    series.append({'run': 'perfect', 'dashed': True, 'points': [[0, 0], [1, 1]]})
    charts['calibration'] = {
        'series': series,
        'x': 'confidence',
        'y': 'accuracy',
        'range': [0, 1, 0, 1],
        'label': 'reliability diagram',
    }
    caption = (
        'Accuracy of the answers given with each confidence (Guo et al. 2017, 15 bins). Below the diagonal the network is '
        'surer than it is right. ECE, the expected calibration error, is the mean gap.'
    )
    table = _table(['run', 'mean confidence', 'ECE (points)'], rows)
    return _section('calibration', 'Calibration', caption, '<div data-chart="calibration"></div>' + table)


def robustness(runs: Runs, charts: Charts) -> str:
    known = [run for run in runs if run.corruptions]
    if not known:
        return ''
    charts['robustness'] = {
        'series': [
            {
                'run': run.name,
                'points': [[s + 1, 100 * float(np.mean([e[s] for e in run.corruptions['errors'].values()]))] for s in range(5)],
            }
            for run in known
        ],
        'x': 'severity',
        'y': 'error (%)',
        'label': 'error by severity',
    }
    names = list(known[0].corruptions['corruption_errors'])
    rows = [
        [escape(name.replace('_', ' '))]
        + [_number(run.corruptions['corruption_errors'].get(name, None), '{:.1%}') for run in known]
        for name in names
    ]
    rows.append(['mean corruption error', *(f'{run.corruptions["mean_corruption_error"]:.1%}' for run in known)])
    rows.append(['clean images', *(f'{run.corruptions["clean_error"]:.1%}' for run in known)])
    caption = (
        'Error on test images corrupted in 15 ways (Hendrycks and Dietterich 2019), mean of five severities, not normalised. '
        "The corruptions are this project's own: compare only with figures made by it."
    )
    table = _table(['corruption', *(escape(run.name) for run in known)], rows)
    return _section('robustness', 'Corrupted images', caption, '<div data-chart="robustness"></div>' + table)


def filters(runs: Runs) -> str:
    def one(run):
        if run.filters is None or run.filters.ndim != 4 or run.filters.shape[2] not in (1, 3):
            return ''
        parts = []
        for kernel in np.moveaxis(run.filters, -1, 0)[:64]:
            span = float(np.abs(kernel).max()) or 1.0
            parts.append(_image((127.5 + 127.5 * kernel / span).astype(np.uint8), 'filter'))
        return f'<div class="filters">{"".join(parts)}</div>'

    caption = 'Kernels of the first convolution, each scaled to its largest weight; grey is 0. Edges and colours are expected.'
    return _section('filters', 'First-layer filters', caption, _each(runs, one))


def gradients(runs: Runs, charts: Charts) -> str:
    series = []
    for run in runs:
        points = [[r['step'], r['grad_norm']] for r in run.metrics if isinstance(r.get('grad_norm'), int | float)]
        if points:
            series.append({'run': run.name, 'points': points})
    if series:
        charts['gradients'] = {'series': series, 'x': 'iteration', 'y': 'norm', 'log': True, 'label': 'gradient norm'}
    caption = 'Norm of the whole gradient before clipping. Growth without end precedes divergence.'
    return _section('gradients', 'Gradient norm', caption, '<div data-chart="gradients"></div>' if series else '')


def configs(runs: Runs) -> str:
    rows = []
    for field in dict.fromkeys(itertools.chain.from_iterable(run.config for run in runs)):
        values = [str(run.config.get(field, '-')) for run in runs]
        mark = ' class="differs"' if len(set(values)) > 1 else ''
        rows.append(f'<tr{mark}><td>{escape(field)}</td>' + ''.join(f'<td>{escape(v)}</td>' for v in values) + '</tr>')
    head = '<tr><th>field</th>' + ''.join(f'<th>{escape(run.name)}</th>' for run in runs) + '</tr>'
    content = f'<div class="scroll"><table class="text">{head}{"".join(rows)}</table></div>' if rows else ''
    return _section('configs', 'Configs', 'Fields that differ between the runs are marked.', content)


def environments(runs: Runs) -> str:
    rows = []
    for run in runs:
        found = dict(run.environment)
        packages = found.pop('packages', {})
        parts = [f'{key} {value}' for key, value in [*found.items(), *packages.items()]]
        rows.append([escape(run.name), escape(', '.join(parts))])
    return _section('environment', 'Versions and hardware', 'What made each run.', _table(['run', ''], rows, 'text'))
