"""Building blocks of report sections: templates, numbers and charts."""

import dataclasses
from collections.abc import Callable, Sequence

import jinja2
from markupsafe import Markup

from resnet_jax.runs.reader import RunReader
from resnet_jax.typing import Json, JsonDict

Runs = Sequence[RunReader]
Charts = JsonDict


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page; `caption` explains its content."""

    name: str
    title: str
    caption: str
    content: str


def template(name: str) -> jinja2.Template:
    """Returns a template from the folder templates; it escapes its arguments unless they are the output of a macro."""
    loader = jinja2.PackageLoader('resnet_jax.report')
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(name)


class _Parts:
    """The macros of parts.html: parts.<name>(...) returns the macro's output."""

    _macros = template('parts.html').module

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        macro: Callable[..., Markup] = getattr(self._macros, name)
        return macro


parts = _Parts()


def number(value: object, pattern: str = '{:,}') -> str:
    """Returns a formatted number; '-' if the value is not a number."""
    return pattern.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else '-'


def views(result: Json) -> str:
    """Returns a mark for an accuracy with test-time augmentation; '' for one without."""
    averaged = result.get('tta', 'none')
    return '' if averaged == 'none' else f' (views averaged: {averaged})'


def p_value(value: float) -> str:
    """Returns a formatted p value; a float underflows to 0, but a probability is never 0."""
    return f'{value:.2g}' if value >= 1e-300 else 'below 1e-300'


def each(runs: Runs, content: Callable[[RunReader], str]) -> str:
    """Returns the content of every run that has any; all but the first two are folded."""
    contents = [(run.name, part) for run in runs if (part := content(run))]
    if len(contents) == 1:
        return contents[0][1]
    return Markup().join(parts.folded(name, part, open=place < 2) for place, (name, part) in enumerate(contents))


def chart(charts: Charts, name: str, title: str, series: Sequence[Json], **more: object) -> str:
    """Adds a chart, which report.js draws, and returns its placeholder in the page; '' if there are no series."""
    if not series:
        return ''
    charts[name] = {'series': list(series), 'label': title, **more}
    return parts.chart(name, title)
