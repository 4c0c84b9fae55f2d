"""The report: one HTML file that works offline, on one run or several runs side by side.

Every string from a run folder is escaped; the page's content security policy allows only its own script.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from resnet_jax.report import answers, curves, dataset, overview
from resnet_jax.report.markup import template
from resnet_jax.report.optional import optional
from resnet_jax.runs.reader import RunReader, read_run
from resnet_jax.runtime.files import write_atomically
from resnet_jax.typing import Json, JsonDict


def write_run_report(folder: str | Path) -> Path | None:
    """Writes a run's report.html into its folder; only warns on failure, because the run's result does not need it."""
    with optional('The report could not be written'):
        run = read_run(folder)
        return write_report([run], Path(folder) / 'report.html', run.name)
    return None


def write_report(runs: Sequence[RunReader], path: Path, title: str, results: Json | None = None) -> Path:
    """Writes the report of runs to a file atomically, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, render(runs, title, results))


def render(runs: Sequence[RunReader], title: str, results: Json | None = None) -> str:
    """Returns the page.

    Sections on single networks show only the first run of each study entry.

    Args:
      results: for a study, the return value of `results.collect`.
    """
    charts: JsonDict = {}
    first = list({run.group: run for run in reversed(runs)}.values())[::-1]
    all_sections = [
        overview.study(results) if results else None,
        overview.ranking(results) if results else None,
        overview.summary(runs),
        None if results else overview.agreement(runs),
        curves.curves(runs, charts, results and results['published']),
        answers.classes(first),
        answers.confusion(first),
        answers.embedding(first, charts),
        answers.wrong(first),
        answers.calibration(first, charts),
        answers.robustness(first, charts),
        dataset.section(first),
        curves.augmentation(first),
        curves.filters(first),
        curves.gradients(runs, charts),
        overview.configs(first),
        overview.environments(runs),
    ]
    package = resources.files('resnet_jax.report')
    script, style = (package.joinpath(name).read_text(encoding='utf-8') for name in ('report.js', 'report.css'))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # Escape '<', which could end the script element.
    data = json.dumps({'charts': charts}, allow_nan=False).replace('<', '\\u003c').replace('\u2028', ' ')
    sections = [section for section in all_sections if section]
    page = template('page.html')
    headline = '' if results else overview.headline(runs)
    values = {'title': title, 'headline': headline, 'sections': sections}
    return page.render(**values, policy=policy, style=style, script=script, data=data) + '\n'
