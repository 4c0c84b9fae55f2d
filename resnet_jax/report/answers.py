"""Report sections on test-set predictions: by class, confusion, most confident mistakes, calibration, corrupted images."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from resnet_jax.report.markup import Charts, Runs, Section, chart, each, number, parts
from resnet_jax.report.pictures import overlay, thumbnail
from resnet_jax.runs.reader import RunReader
from resnet_jax.typing import JsonDict

_BALANCED = 'balanced accuracy'
_MOST_PAIRS = 8


def classes(runs: Runs) -> Section:
    """Returns the section on accuracy by class."""
    known = [run for run in runs if run.evaluation.get('per_class_accuracy')]
    if len(known) == 1:
        evaluation = known[0].evaluation
        rows = []
        names = evaluation.get('class_names', [])
        measured = (evaluation.get(key, []) for key in ('per_class_count', 'per_class_accuracy', 'per_class_precision'))
        for name, count, accuracy, precision in zip(names, *measured, strict=False):
            rows.append([name, number(count), _percent(accuracy), _percent(precision), parts.bar(accuracy or 0)])
        if balanced := evaluation.get('balanced_accuracy'):
            rows.append([_BALANCED, number(evaluation.get('count')), _percent(balanced), '', ''])
        content: str = parts.table(['class', 'test images', 'accuracy', 'precision', ''], rows, 'bars')
    else:
        shares = [
            dict(zip(map(str, run.evaluation.get('class_names', [])), run.evaluation['per_class_accuracy'], strict=False))
            for run in known
        ]
        rows = [[name, *(_percent(share.get(name)) for share in shares)] for name in dict.fromkeys(chain(*shares))]
        if any(run.evaluation.get('balanced_accuracy') for run in known):
            rows.append([_BALANCED, *(_percent(run.evaluation.get('balanced_accuracy')) for run in known)])
        content = parts.table(['class', *(run.name for run in known)], rows) if rows else ''
    caption = (
        'Accuracy: share of a class that is recognised. Precision: share of the answers naming it that are right. Balanced '
        'accuracy: the mean over the classes, in which a rare class counts as much as a common one.'
    )
    return Section('classes', 'By class', caption, content)


def _percent(value: float | None) -> str:
    return number(value and 100 * value, '{:.1f} %')


def confusion(runs: Runs) -> Section:
    """Returns the section on which classes the network confuses."""

    def of_run(run: RunReader) -> str:
        matrix, names = run.evaluation.get('confusion'), run.evaluation.get('class_names', [])
        if not matrix:
            return ''
        if len(names) > 20:
            content = _confused(matrix, names)
        else:
            content = parts.confusion([(str(name), counts) for name, counts in zip(names, matrix, strict=True)])
        return content + _pairs(run, names)

    caption = (
        'Counts of test images. Off the diagonal: which classes are taken for which. Of more than 20 classes the 20 pairs that '
        'are confused most often. Pairs of pictures: an image of the first class that is taken for the second, and the image '
        'of the second, rightly recognised, that the network finds most similar to it.'
    )
    return Section('confusion', 'Confusion matrix', caption, each(runs, of_run))


def _confused(matrix: Sequence[Sequence[int]], names: Sequence[object]) -> str:
    entries: Iterable[Sequence[int]] = matrix  # [row, column, count], see `evaluation.record.confusion_as_json`
    if len(matrix[0]) == len(names):
        entries = ((i, j, count) for i, row in enumerate(matrix) for j, count in enumerate(row) if count)
    totals: Counter[int] = Counter()
    pairs = []
    for i, j, count in entries:
        totals[i] += count
        if i != j:
            pairs.append((count, i, j))
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    rows = [[str(names[i]), str(names[j]), str(count), str(totals[i])] for count, i, j in pairs[:20]]
    return parts.table(['true', 'predicted', 'images', 'of'], rows)


def _pairs(run: RunReader, names: Sequence[object]) -> str:
    figures = []
    for pixels, row in zip(() if run.pairs is None else run.pairs[:_MOST_PAIRS], run.evaluation.get('pairs', []), strict=False):
        label, predicted = str(names[row['label']]), str(names[row['predicted']])
        caption = [f'{label} taken for {predicted}', f'{row["count"]} test image{"s" if row["count"] > 1 else ""}']
        figures.append(([(thumbnail(pixels[0]), label), (thumbnail(pixels[1]), predicted)], caption))
    return parts.gallery(figures) if figures else ''


def wrong(runs: Runs) -> Section:
    """Returns the section on the most confident mistakes."""

    def of_run(run: RunReader) -> str:
        names = run.evaluation.get('class_names', [])
        if run.wrong is None:
            return ''
        figures = []
        for place, (pixels, row) in enumerate(zip(run.wrong, run.evaluation.get('wrong', []), strict=False)):
            predicted, label = str(names[row['predicted']]), str(names[row['label']])
            caption = [f'said {predicted}, {100 * row["confidence"]:.0f} %', f'is {label}']
            pictures = [(thumbnail(pixels), label)]
            if run.wrong_maps is not None and run.wrong_maps.shape == run.wrong.shape[:3]:
                pictures.append((thumbnail(overlay(pixels, run.wrong_maps[place])), f'what speaks for {predicted}'))
            figures.append((pictures, caption))
        return parts.gallery(figures) if figures else ''

    caption = (
        'The wrong answers given with the highest probability. Some are mislabelled or ambiguous; the others are telling. '
        'Beside each in orange, by Grad-CAM, what speaks for the answer that was given.'
    )
    return Section('wrong', 'Most confidently wrong', caption, each(runs, of_run))


def embedding(runs: Runs, charts: Charts) -> Section | None:
    """Returns the section with maps of the test set; None if no run has a map."""

    def of_run(run: RunReader) -> str:
        places, labels, names = run.map, run.map_labels, run.evaluation.get('class_names', [])
        if (
            places is None
            or labels is None
            or places.shape != (len(labels), 2)
            or not {*labels.tolist()} <= {*range(len(names))}
        ):
            return ''
        series = [
            {'run': str(names[label]), 'points': [[float(f'{x:.4g}'), float(f'{y:.4g}')] for x, y in places[labels == label]]}
            for label in np.unique(labels)
        ]
        shown = number(run.evaluation.get('map_variance'), '{:.0%}')
        title = f'{len(labels):,} test images; {shown} of the variance of their features'
        axes = {'x': 'first principal component', 'y': 'second principal component', 'scatter': True}
        return chart(charts, f'map_{len(charts)}', title, series, **axes)

    content = each(runs, of_run)
    if not content:
        return None
    caption = (
        'Test images by what the last layer sees of them, projected on the two directions in which they differ most (PCA): '
        'classes that are apart here are apart to the network; classes that overlap here may be apart in other directions. Of '
        'more than 20 classes the first 10. A click on a class hides it.'
    )
    return Section('map', 'Map of the test set', caption, content)


def calibration(runs: Runs, charts: Charts) -> Section:
    """Returns the section that compares the confidence of the networks with their accuracy."""
    series: list[JsonDict] = []
    rows = []
    for run in runs:
        measured = run.evaluation.get('calibration')
        if measured:
            bins = [bucket for bucket in measured['bins'] if bucket['count']]
            series.append({'run': run.name, 'points': [[bucket['confidence'], bucket['accuracy']] for bucket in bins]})
            shares = [f'{100 * measured["confidence"]:.2f} %', f'{100 * measured["ece"]:.2f}']
            rows.append([run.name, *shares, number(run.evaluation.get('loss'), '{:.4f}')])
    if not series:
        return Section('calibration', 'Calibration', '', '')
    series.append({'run': 'perfect', 'dashed': True, 'points': [[0, 0], [1, 1]]})
    axes = {'x': 'confidence', 'y': 'accuracy', 'range': [0, 1, 0, 1]}
    content = chart(charts, 'calibration', 'reliability diagram', series, **axes)
    caption = (
        'Accuracy of the answers given with each confidence (Guo et al. 2017, 15 bins). Below the diagonal the network is '
        'surer than it is right. ECE, the expected calibration error, is the mean gap; the loss is the '
        'negative log-likelihood of the right class.'
    )
    return Section(
        'calibration',
        'Calibration',
        caption,
        content + parts.table(['run', 'mean confidence', 'ECE (points)', 'loss (nats)'], rows),
    )


def robustness(runs: Runs, charts: Charts) -> Section | None:
    """Returns the section on corrupted images."""
    known = [run for run in runs if run.corruptions]
    if not known:
        return None
    series = [
        {
            'run': run.name,
            'points': [[s + 1, 100 * float(np.mean([e[s] for e in run.corruptions['errors'].values()]))] for s in range(5)],
        }
        for run in known
    ]
    content = chart(charts, 'robustness', 'error by severity', series, x='severity', y='error (%)')
    names = list(known[0].corruptions['corruption_errors'])
    rows = [
        [name.replace('_', ' ')] + [number(run.corruptions['corruption_errors'].get(name, None), '{:.1%}') for run in known]
        for name in names
    ]
    rows.append(['mean corruption error', *(f'{run.corruptions["mean_corruption_error"]:.1%}' for run in known)])
    rows.append(['clean images', *(f'{run.corruptions["clean_error"]:.1%}' for run in known)])
    caption = (
        'Error on test images corrupted in 15 ways (Hendrycks and Dietterich 2019), mean of five severities, not normalised. '
        "The corruptions are this project's own: compare only with figures made by it."
    )
    content += parts.table(['corruption', *(run.name for run in known)], rows)
    return Section('robustness', 'Corrupted images', caption, content)
