"""The report: one HTML file that needs no network, of one run or of several side by side.

Every string that comes from a run folder is escaped; the page's own script is the only one that its policy lets run.
"""

import base64
import hashlib
import html
import json
import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from resnet_jax.report import sections
from resnet_jax.report.runs import RunFiles, read_run

logger = logging.getLogger(__name__)


def write_run_report(folder: str | Path) -> Path | None:
    """Writes a run's report.html into its folder; a failure is a warning, for the run has its result without it."""
    try:
        run = read_run(folder)
        return write_report([run], Path(folder) / 'report.html', run.name)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        logger.warning('The report could not be written: %s', error)
        return None


def write_report(runs: Sequence[RunFiles], path: Path, title: str, results: Mapping[str, Any] | None = None) -> Path:
    """Writes the report of runs to a file, in whole or not at all, and returns its path."""
    partial = path.with_name(f'.{path.name}.partial')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(render(runs, title, results), encoding='utf-8')
    return partial.replace(path)


def render(runs: Sequence[RunFiles], title: str, results: Mapping[str, Any] | None = None) -> str:
    """Returns the page; `results` of a study are what `results.collect` returns."""
    charts: dict[str, Any] = {}
    body = [
        sections.study(results) if results else '',
        sections.summary(runs),
        sections.agreement(runs),
        sections.curves(runs, charts),
        sections.classes(runs),
        sections.confusion(runs),
        sections.wrong(runs),
        sections.calibration(runs, charts),
        sections.robustness(runs, charts),
        sections.filters(runs),
        sections.gradients(runs, charts),
        sections.configs(runs),
        sections.environments(runs),
    ]
    here = resources.files('resnet_jax.report')
    script, style = (here.joinpath(name).read_text(encoding='utf-8') for name in ('report.js', 'report.css'))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # In a script element only '<' could end the data; as JSON it may be written so that it does not.
    data = json.dumps({'charts': charts}, allow_nan=False).replace('<', '\\u003c').replace('\u2028', ' ')
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>{name}</title><style>{style}</style></head><body><h1>{name}</h1>\n'
        + '\n'.join(part for part in body if part)
        + f'\n<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>\n'
    )
