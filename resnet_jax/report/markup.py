"""What the sections of a report are written with: HTML from numbers, text and pixels."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.runs.reader import RunFiles

Runs = Sequence[RunFiles]
Charts = dict[str, Any]


def section(name: str, title: str, caption: str, content: str) -> str:
    """A section of the page; `caption` says what to see in it."""
    empty = '<p>Nothing recorded.</p>'
    return f'<section id="{name}"><h2>{title}</h2><p class="caption">{caption}</p>{content or empty}</section>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = '') -> str:
    """Cells are HTML."""
    head = ''.join(f'<th>{cell}</th>' for cell in header)
    body = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def number(value: Any, pattern: str = '{:,}') -> str:
    return pattern.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else '-'


def views(found: Mapping[str, Any]) -> str:
    """A mark on an accuracy that tells it from one without test-time augmentation; text, not HTML."""
    averaged = found.get('tta', 'none')
    return '' if averaged == 'none' else f' (views averaged: {averaged})'


def p_value(value: float) -> str:
    """Text, not HTML; a probability is never 0, but a float can be."""
    return f'{value:.2g}' if value >= 1e-300 else 'below 1e-300'


def each(runs: Runs, content: Callable[[RunFiles], str]) -> str:
    """The content of every run that has some; of several, all but the first two folded."""
    parts = [(run.name, content(run)) for run in runs]
    parts = [(name, part) for name, part in parts if part]
    if len(parts) == 1:
        return parts[0][1]
    return ''.join(
        f'<details{" open" if place < 2 else ""}><summary>{escape(name)}</summary>{part}</details>'
        for place, (name, part) in enumerate(parts)
    )


def chart(charts: Charts, name: str, title: str, series: Sequence[Any], **more: Any) -> str:
    """Adds a chart, which report.js draws, and returns its place in the page; nothing if there are no series."""
    if not series:
        return ''
    charts[name] = {'series': list(series), 'label': title, **more}
    return f'<h3>{escape(title)}</h3><div data-chart="{name}"></div>'


def picture(pixels: np.ndarray, label: str) -> str:
    """uint8 `[height, width, channels]` as an image in the page."""
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
