"""Writes a study's report from its run folders: report.html, results.json, results.csv and plots."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.report.optional import optional
from resnet_jax.report.page import write_report
from resnet_jax.report.results import BETTER, WORSE, collect, write_results
from resnet_jax.runs.reader import RunReader, read_run, reported
from resnet_jax.study.entries import StudyRun
from resnet_jax.typing import Json


def is_needed(study: Json, runs: Sequence[StudyRun], run: StudyRun) -> bool:
    """Returns whether a run can still change the verdict of its entry, or of an entry that is compared with it.

    The verdicts 'better' and 'worse' are final.
    """
    by_entry = _read(runs)
    with reported([run.folder.parent.parent]):
        results = collect(study, by_entry)
    decided = {name for name, compared in results['comparisons'].items() if compared['verdict'] in (BETTER, WORSE)}
    baselines = {name: study['entries'][name].get('baseline', results['baseline']) for name in results['entries']}
    compared = [name for name, baseline in baselines.items() if baseline == run.entry and name != run.entry]
    if run.entry != baselines[run.entry]:
        compared.append(run.entry)
    return not compared or not decided.issuperset(compared)


def _read(runs: Sequence[StudyRun]) -> dict[str, dict[int, RunReader]]:
    by_entry: dict[str, dict[int, RunReader]] = {}
    for run in runs:
        files = dataclasses.replace(read_run(run.folder), entry=run.entry)
        # A run that was refused or has not started has no config in its folder: use the study's.
        by_entry.setdefault(run.entry, {})[run.seed] = dataclasses.replace(files, config=files.config or run.config)
    return by_entry


def write_study_report(study: Json, runs: Sequence[StudyRun], folder: Path) -> Path:
    """Writes the report of the runs so far, and returns the path of report.html.

    Args:
      study: a study for `entries.expand`, with a 'name'.

    Raises:
      InputFileError: a file has contents that no run writes.
    """
    by_entry = _read(runs)
    folder.mkdir(parents=True, exist_ok=True)
    with reported([folder]):
        results = collect(study, by_entry)
        write_results(results, folder)
    shown = [files for seeds in by_entry.values() for files in seeds.values() if files.metrics or files.result or files.failed]
    with optional('The plots could not be written'):
        from resnet_jax.report.study_plots import plot_study

        plot_study(results, shown, folder / 'plots')
    with reported([folder]):
        return write_report(shown, folder / 'report.html', study['name'], results)
