"""Plots of a study as PNG and SVG files: curves, final accuracy over seeds, gradient norms by layer."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.report.figures import Axes, Figure, default_style, save
from resnet_jax.runs.reader import RunReader
from resnet_jax.typing import Json

_COLOURS = 10  # number of colours in matplotlib's cycle
_COLUMNS = 3  # number of columns of panels


def plot_study(results: Json, runs: Sequence[RunReader], folder: Path) -> list[Path]:
    """Plots the runs of a study as .png and .svg files, and returns their paths.

    accuracy, loss: by iteration, one line per seed, solid for test images and dashed for training images. If a published
      series continues beyond our runs, a second panel shows it to its end. If there are more than ten entries, the number of
      colours, each baseline has a panel.
    final: test accuracy of each seed, and the mean.
    gradient_norms: by layer, at the first and the last logged iteration.

    Runs that have not ended are left out, as in the table.

    Args:
      results: the return value of `results.collect`.
    """
    runs = [run for run in runs if run.result or run.failed]
    colours = {name: f'C{place % _COLOURS}' for group in _groups(results) for place, name in enumerate(group)}
    figures = {
        'accuracy': _curves(results, runs, 'accuracy', 'accuracy (%)', 100, colours),
        'loss': _curves(results, runs, 'loss', 'loss (nats)', 1, colours),
        'final': _final(results, colours),
        'gradient_norms': _gradients(runs, colours),
    }
    drawn = [(name, figure) for name, figure in figures.items() if figure is not None]
    return [save(figure, folder / f'{name}.{kind}') for name, figure in drawn for kind in ('png', 'svg')]


def _groups(results: Json) -> list[list[str]]:
    """Returns groups of entries that share colours and axes: all entries or, if there are many, those of each baseline."""
    entries, groups = results['entries'], dict[str, list[str]]()
    for name, entry in entries.items():
        groups.setdefault(entry.get('baseline', results['baseline']), []).append(name)
    return [*groups.values()] if len(entries) > _COLOURS else [[*entries]]


class _Named:
    """Returns the legend label of each entry once, then None."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, entry: str) -> str | None:
        known = entry in self._seen
        self._seen.add(entry)
        return None if known else entry


@default_style()
def _curves(
    results: Json, runs: Sequence[RunReader], key: str, label: str, scale: float, colours: Mapping[str, str]
) -> Figure | None:
    ends = [rows[-1][0] for run in runs for split in ('train', 'test') if (rows := run.rows(split, key))]
    if not ends:
        return None
    ours, published = max(ends), {name: measures[key] for name, measures in results['published'].items() if measures.get(key)}
    beyond = any(points[-1][0] > ours for points in published.values())
    groups = [group for group in _groups(results) if any(run.entry in group for run in runs)]
    if beyond and len(groups) == 1:
        groups *= 2
    columns = min(len(groups), _COLUMNS)
    height = -(-len(groups) // columns)
    figure = Figure(figsize=(9 if columns == 1 else 12, max(4.5, 2.8 * height)), layout='constrained')
    axes = figure.subplots(height, columns, sharey=True, squeeze=False).flat
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for place, (axis, group) in enumerate(zip(axes, groups, strict=False)):
        named, drawn = _Named(), []
        for run in runs:
            if run.entry not in group:
                continue
            for split, style in (('train', '--'), ('test', '-')):
                rows = [(step, scale * value) for step, value in run.rows(split, key) if isinstance(value, int | float)]
                drawn += [value for _, value in rows]
                if rows:
                    axis.plot(
                        *zip(*rows, strict=True),
                        style if len(rows) > 1 else 'o',
                        color=colours[run.entry],
                        alpha=0.4 if split == 'train' else 0.9,
                        linewidth=0.8 if split == 'train' else 1.5,
                        label=named(run.entry) if split == 'test' or not run.rows('test', key) else None,
                    )
        for (name, points), marker in zip(published.items(), itertools.cycle('ox+'), strict=False):
            axis.plot(*zip(*points, strict=True), ':', color='black', marker=marker, markersize=4, label=name)
        if key == 'loss' and drawn:  # otherwise a diverged curve would flatten the others
            top = 10 * float(np.quantile(drawn, 0.9))
            axis.set_yscale('log')
            if max(drawn) > top:
                axis.set_ylim(top=top)
                label = f'{label}, cut off at the top'
        if len(groups) == 2 and groups[0] == groups[1] and not place:
            axis.set_xlim(0, 1.02 * ours)
        _finish(figure, axis, xlabel='iteration', ylabel='' if place % columns else label)
    return figure


@default_style()
def _final(results: Json, colours: Mapping[str, str]) -> Figure | None:
    known = {name: entry for name, entry in results['entries'].items() if entry['accuracy'] or entry['expected']}
    if not known:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(known)), layout='constrained')
    axis = figure.subplots()
    for place, (name, entry) in enumerate(known.items()):
        for run in entry['runs'].values():
            axis.plot(100 * run['accuracy'], place, 'o', color=colours[name], alpha=0.6)
        if entry['accuracy']:
            axis.plot(100 * entry['accuracy']['mean'], place, '|', color='black', markersize=16)
        if entry['expected']:
            axis.plot(entry['expected']['accuracy'], place, 'D', color='black', fillstyle='none')
    axis.set_yticks(range(len(known)), list(known))
    axis.set_ylim(len(known) - 0.5, -0.5)
    marks = 'o one seed, | mean' + (', diamond: published' if any(entry['expected'] for entry in known.values()) else '')
    return _finish(figure, axis, xlabel=f'test accuracy (%): {marks}')


@default_style()
def _gradients(runs: Sequence[RunReader], colours: Mapping[str, str]) -> Figure | None:
    layered = [(run, run.rows('gradients', 'norms')) for run in runs if run.rows('gradients', 'norms')]
    if not layered:
        return None
    figure = Figure(figsize=(11, 4), layout='constrained')
    axes, named = figure.subplots(1, 2, sharey=True), _Named()
    for run, rows in layered:
        label = named(run.entry)
        for axis, (_, norms) in zip(axes, (rows[0], rows[-1]), strict=True):
            values = [norms[name] for name in run.layers if name in norms]
            axis.plot(range(1, len(values) + 1), values, color=colours[run.entry], label=label)
    for axis, when in zip(axes, ('at the first iteration', 'at the last iteration logged'), strict=True):
        axis.set(yscale='log', title=when)
        _finish(figure, axis, xlabel='layer, from the image on')
    axes[0].set_ylabel("norm of the kernel's gradient")
    return figure


def _finish(figure: Figure, axis: Axes, **labels: str) -> Figure:
    axis.set(**labels)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
    return figure
