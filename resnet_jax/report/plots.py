"""Plots of a run, drawn from the files in its folder, without JAX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.report.figures import Figure, default_style, save
from resnet_jax.runs.reader import read_config_changes
from resnet_jax.runs.rows import METRICS, read_rows
from resnet_jax.runtime.untrusted import printable
from resnet_jax.typing import Json

_COLOURS = {'train': '#4c72b0', 'test': '#c44e52', 'validation': '#dd8452'}


@default_style()
def plot_training(workdir: Path) -> Path:
    """Plots loss, accuracy and learning rate by iteration to `plots/training.png`, and returns its path.

    Dotted lines mark config changes.
    """
    rows = read_rows(workdir / METRICS)
    figure = Figure(figsize=(12, 3.6), layout='constrained')
    axes = figure.subplots(1, 3)
    panels = [('loss', 'loss (cross entropy)', 1.0), ('accuracy', 'accuracy (%)', 100.0)]
    for axis, (name, label, scale) in zip(axes, panels, strict=False):
        for split in ('train', 'validation', 'test'):
            points = [(row['step'], scale * row[name]) for row in rows if row['split'] == split]
            averaged = [(r['step'], scale * r[f'ema_{name}']) for r in rows if r['split'] == split and f'ema_{name}' in r]
            marker = '' if split == 'train' else 'o'
            views = next((f', views averaged ({r["tta"]})' for r in rows if r['split'] == split and 'tta' in r), '')
            share = next((r['selected_fraction'] for r in rows if r['split'] == split and 'selected_fraction' in r), 1)
            selected = f', hardest {100 * share:g} %' if share < 1 else ''
            for values, style, suffix in ((points, '-', ''), (averaged, '--', ', averaged')):
                if values:
                    axis.plot(
                        *zip(*values, strict=True),
                        style,
                        marker=marker,
                        markersize=3,
                        color=_COLOURS[split],
                        label=split + suffix + views + selected,
                    )
        axis.set(xlabel='iteration', ylabel=label)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    rates = [(row['step'], row['learning_rate']) for row in rows if row['split'] == 'train']
    if rates:
        axes[2].plot(*zip(*rates, strict=True), color='#55a868')
    axes[2].set(xlabel='iteration', ylabel='learning rate')
    axes[2].grid(alpha=0.3)
    for change in read_config_changes(workdir):
        for axis in axes:
            axis.axvline(change.step, color='#8c8c8c', linestyle=':')
        place = axes[2].get_xaxis_transform()
        axes[2].text(change.step, 0.98, ' ' + change.describe(), transform=place, rotation=90, va='top', ha='right', size=7)
    figure.suptitle(printable(workdir.resolve().name), parse_math=False)
    return save(figure, workdir / 'plots' / 'training.png')


@default_style()
def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Plots a confusion matrix in per cent of each true class, and returns its path.

    Args:
      confusion: int `[num_classes, num_classes]`, counts by label (row) and prediction (column).
    """
    names, size = [printable(name) for name in class_names], len(class_names)
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    small = size <= 20  # with more classes the names and numbers would overlap
    side = 6.5 if small else 9
    figure = Figure(figsize=(side, side * 0.92), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(share, cmap='Blues', vmin=0, vmax=100)
    axis.set(xlabel='predicted class', ylabel='true class')
    if small:
        axis.set_xticks(range(size), names, rotation=45, ha='right', parse_math=False)
        axis.set_yticks(range(size), names, parse_math=False)
        for (row, column), value in np.ndenumerate(share):
            if round(value) >= 1:
                colour = 'white' if value > 50 else 'black'
                axis.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=8, color=colour)
    figure.colorbar(image, shrink=0.8, label='% of the true class')
    return save(figure, path)


@default_style()
def plot_corruptions(corruptions: Json, path: Path) -> Path:
    """Plots errors by corruption and severity, as returned by `evaluate_corruptions`, and returns the path."""
    figure = Figure(figsize=(10, 4.2), layout='constrained')
    axis = figure.subplots()
    names = list(corruptions['errors'])
    for severity in range(5):
        errors = [100 * corruptions['errors'][name][severity] for name in names]
        places = np.arange(len(names)) + (severity - 2) * 0.16
        axis.bar(places, errors, 0.16, color=str(0.8 - 0.17 * severity), label=f'severity {severity + 1}')
    axis.axhline(100 * corruptions['clean_error'], color='#55a868', label='clean images')
    axis.axhline(100 * corruptions['mean_corruption_error'], color='#c44e52', linestyle='--', label='mean corruption error')
    axis.set_xticks(range(len(names)), [name.replace('_', ' ') for name in names], rotation=40, ha='right')
    axis.set(ylabel='error (%)')
    axis.grid(alpha=0.3, axis='y')
    axis.legend(frameon=False, ncols=4, loc='lower center', bbox_to_anchor=(0.5, 1.0))
    return save(figure, path)
