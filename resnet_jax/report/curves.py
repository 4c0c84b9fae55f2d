"""Report sections on training: curves by iteration and time, gradient norms by layer, first-layer filters."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from resnet_jax.report.markup import Charts, Runs, Section, chart, each, parts, views
from resnet_jax.report.pictures import data_uri
from resnet_jax.runs.reader import RunReader
from resnet_jax.typing import Json, JsonDict

_MEASURES = (('accuracy', 'accuracy (%)', 100), ('loss', 'loss (nats)', 1))


def curves(
    runs: Runs, charts: Charts, published: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None
) -> Section:
    """Returns the section with accuracy and loss curves.

    Args:
      published: series to draw beside the runs, {name: {'accuracy': [[iteration, per cent], ...]}}.
    """
    content = Markup()
    for key, label, scale in _MEASURES:
        series: list[JsonDict] = []
        for run in runs:
            seconds = {row['step']: row.get('seconds') for row in run.timing}
            for split in ('train', 'validation', 'test'):
                rows = [(step, value) for step, value in run.rows(split, key) if isinstance(value, int | float)]
                points = [[step, scale * value, seconds.get(step)] for step, value in rows]
                if points:
                    title = split + (_selected(run.config) if split == 'train' else views(run.config))
                    series.append({'run': run.group, 'part': part(run, title), 'dashed': split == 'train', 'points': points})
        ours = max([curve['points'][-1][0] for curve in series], default=0)
        others: list[JsonDict] = [
            {'run': name, 'part': 'test', 'marked': True, 'points': [list(point) for point in measures[key]]}
            for name, measures in (published or {}).items()
            if measures.get(key)
        ]
        beyond = any(curve['points'][-1][0] > ours for curve in others)
        more = {'focus': ours} if beyond and ours else {}
        content += chart(charts, key, label, [*series, *others], x='iteration', y=label, **more)
    caption = (
        'Dashed: training images, as augmented, averaged since the point before. Solid: images not trained on. A growing gap '
        'between them is overfitting. Point at a curve for its values; a click on a name hides it.'
    )
    if reasons := sorted({reason for run in runs for reason in _why_above(run.config)}):
        caption += (
            f' The training loss may lie above the test loss: it is measured {", ".join(reasons)}, and the test loss is not.'
        )
    if published:
        caption += ' Dotted: what the paper printed, on its own data and schedule; it goes on beyond the iterations shown.'
    return Section('curves', 'Training', caption, content)


def _why_above(config: Json) -> list[str]:
    """Returns why the training loss may exceed the test loss."""
    reasons = []
    if config.get('label_smoothing'):
        reasons.append(
            f'against smoothed labels, with which no answer has a loss of 0 (label_smoothing={config["label_smoothing"]})'
        )
    if mixed := [name for name in ('mixup', 'cutmix') if config.get(f'{name}_alpha')]:
        reasons.append(f'on images that are mixed of two classes ({", ".join(mixed)})')
    if hardest := _selected(config):
        reasons.append(f'on the examples that a proxy network finds hardest{hardest}')
    if config.get('auto_augment', 'none') != 'none' or config.get('random_erasing_prob'):
        reasons.append('on images that augmentation makes harder')
    return reasons


def _selected(config: Json) -> str:
    """Returns which examples the training loss is for; '' for all."""
    share = config.get('selected_fraction')
    return f' (hardest {100 * share:g} %)' if config.get('proxy_model') and isinstance(share, int | float) else ''


def part(run: RunReader, title: str) -> str:
    """Returns the title of a curve, with the seed if the run belongs to a study entry."""
    return f'{title}, seed {run.config["seed"]}' if run.entry and 'seed' in run.config else title


def gradients(runs: Runs, charts: Charts) -> Section:
    """Returns the section on the gradient norm of each layer."""
    total = [
        {'run': run.group, 'part': part(run, 'all layers'), 'points': [[step, value] for step, value in rows]}
        for run in runs
        if (rows := [row for row in run.rows('train', 'grad_norm') if isinstance(row[1], int | float)])
    ]
    content = chart(charts, 'gradients', 'norm of the whole gradient', total, x='iteration', y='norm', log=True)
    caption = 'Norm of the whole gradient before clipping. Growth without end precedes divergence.'
    layered = [(run, run.rows('gradients', 'norms')) for run in runs if run.rows('gradients', 'norms')]
    if layered:
        first: list[JsonDict] = []
        start: list[JsonDict] = []
        end: list[JsonDict] = []
        for run, rows in layered:
            names = [name for name in run.layers if name in rows[0][1]]
            if names:
                first.append({'run': run.group, 'part': part(run, names[0]), 'points': [[s, n.get(names[0])] for s, n in rows]})
            for into, (step, norms) in ((start, rows[0]), (end, rows[-1])):
                points = [[place + 1, norms.get(name), None, name] for place, name in enumerate(names)]
                into.append({'run': run.group, 'part': part(run, f'iteration {step}'), 'points': points})
        layer = {'x': 'layer, from the image on', 'y': 'norm', 'log': True}
        content += chart(charts, 'gradients_start', 'norm by layer at the first iteration', start, **layer)
        content += chart(charts, 'gradients_end', 'norm by layer at the last iteration logged', end, **layer)
        content += chart(
            charts, 'gradients_first', "norm of the first layer's kernel", first, x='iteration', y='norm', log=True
        )
        caption += (
            ' By layer, each the norm of its kernel in one batch: where it falls steeply towards the image, the first layers '
            'hardly learn (a vanishing gradient); where it grows, their steps are too large for the others.'
        )
    return Section('gradients', 'Gradient norms', caption, content)


def augmentation(runs: Runs) -> Section | None:
    """Returns the section with the augmented training images."""

    def of_run(run: RunReader) -> str:
        return '' if run.augmentation is None else parts.picture(data_uri(run.augmentation), 'augmented training images')

    if all(run.augmentation is None for run in runs):
        return None
    caption = (
        'The first images of the first batch: on the left as they are, then as the augmentation of the first steps makes them, '
        'in the colours that the network is given.'
    )
    return Section('augmentation', 'Augmented training images', caption, each(runs, of_run))


def filters(runs: Runs) -> Section:
    """Returns the section with the kernels of the first convolution."""

    def of_run(run: RunReader) -> str:
        if run.filters is None or run.filters.ndim != 4 or run.filters.shape[2] not in (1, 3):
            return ''
        sources = []
        for kernel in np.moveaxis(run.filters, -1, 0)[:64]:
            span = float(np.abs(kernel).max()) or 1.0
            sources.append(data_uri((127.5 + 127.5 * kernel / span).astype(np.uint8)))
        return parts.filters(sources)

    caption = (
        'Kernels of the first convolution, the first 64, each scaled to its largest weight; grey is 0. Edges and colours are '
        'expected after enough training; noise is what they start from.'
    )
    return Section('filters', 'First-layer filters', caption, each(runs, of_run))
