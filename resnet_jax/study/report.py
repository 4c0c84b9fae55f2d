"""A study's time, foretold from its own runs, and its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from resnet_jax.report.page import write_report
from resnet_jax.report.results import collect, write_results
from resnet_jax.report.runs import RunFiles, read_run
from resnet_jax.study.entries import Run
from resnet_jax.study.runner import status


def write_study_report(study: Mapping[str, Any], runs: Sequence[Run], folder: Path) -> Path:
    """Writes report.html, results.json and results.csv of what is there, and returns the first one's path."""
    found: dict[str, dict[int, RunFiles]] = {}
    for run in runs:
        found.setdefault(run.entry, {})[run.seed] = read_run(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = collect(found, study.get('baseline'))
    write_results(results, folder)
    shown = [run for seeds in found.values() for run in seeds.values() if run.config]
    return write_report(shown, folder / 'report.html', folder.name, results)
