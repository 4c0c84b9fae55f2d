"""Reads run folders for reports; every file in a folder is optional."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.runs.documents import check_config, check_environment, check_result
from resnet_jax.runs.progress import ConfigChange, read_changes
from resnet_jax.runs.rows import METRICS, TIMING, read_rows
from resnet_jax.runtime.npz import read_npz
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.typing import JsonDict, Row

_LARGEST_SHEET = 4_000_000  # pixels

_ODD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclasses.dataclass(frozen=True)
class RunReader:
    """The contents of a run folder; missing or unreadable files become empty dicts or lists.

    Attributes:
      name: name of the folder.
      config, environment, result, model, memory, evaluation, corruptions, failed: the JSON files with these names.
      metrics, timing: rows of the .jsonl files.
      changes: changes to the config during training.
      wrong: uint8 `[k, height, width, channels]`, the images of evaluation['wrong'], or None.
      wrong_maps: uint8 `[k, height, width]`, Grad-CAM of the predicted classes, or None.
      pairs: uint8 `[pairs, 2, height, width, channels]`, the images of evaluation['pairs'], or None.
      map: float32 `[n, 2]`, test images by the principal components of their features; map_labels: int `[n]`; or None.
      samples: uint8 `[height, width, 3]`, a sheet of training images with one row per class, or None.
      augmentation: uint8 `[height, width, 3]`, the sheet of augmented training images, or None.
      filters: float32 `[height, width, in, out]`, the kernel of the first convolution, or None.
      log_probabilities, labels: predictions and labels of the test set, or None.
      fingerprint: fingerprint of the data set.
      entry: the study entry of the run, or ''.
    """

    name: str
    config: JsonDict
    environment: JsonDict
    result: JsonDict
    model: JsonDict
    memory: JsonDict
    evaluation: JsonDict
    corruptions: JsonDict
    failed: JsonDict
    metrics: list[Row]
    timing: list[Row]
    changes: list[ConfigChange]
    wrong: np.ndarray | None
    wrong_maps: np.ndarray | None
    pairs: np.ndarray | None
    map: np.ndarray | None
    map_labels: np.ndarray | None
    samples: np.ndarray | None
    augmentation: np.ndarray | None
    filters: np.ndarray | None
    log_probabilities: np.ndarray | None
    labels: np.ndarray | None
    fingerprint: str
    entry: str = ''

    @property
    def group(self) -> str:
        """The run's label in charts: its study entry, which has one run for each seed, or else its name."""
        return self.entry or self.name

    def rows(self, split: str, key: str) -> list[tuple[int, Any]]:
        """Returns (step, value) for each row of metrics.jsonl that has a value for `key`."""
        rows = [row for row in self.metrics if row.get('split') == split]
        return [(row['step'], row[key]) for row in rows if row.get(key) is not None]

    @property
    def correct(self) -> np.ndarray | None:
        """Bool `[n]`: whether each test image was classified correctly; None if unknown."""
        answers, labels = self.log_probabilities, self.labels
        if answers is None or labels is None or answers.ndim != 2 or labels.shape != answers.shape[:1] or not len(labels):
            return None
        correct: np.ndarray = answers.argmax(axis=1) == labels
        return correct

    @property
    def images_per_second(self) -> float | None:
        """The median of the rows of timing.jsonl."""
        values = [row['images_per_second'] for row in self.timing if row.get('images_per_second')]
        return median(values) if values else None

    @property
    def iteration_seconds(self) -> float | None:
        """Seconds per iteration, without evaluation: batch size / `images_per_second`."""
        speed, batch_size = self.images_per_second, self.config.get('batch_size')
        return batch_size / speed if speed and isinstance(batch_size, int) else None

    @property
    def layers(self) -> list[str]:
        """The layers with a kernel, in execution order; if it is unknown, the order is guessed from the names."""
        known = self.model.get('layers', [])
        if known:
            return [layer['path'] for layer in known if layer['kind'] != 'BatchNorm']
        names = {name for _, norms in self.rows('gradients', 'norms') for name in norms}
        return sorted(names, key=lambda name: (name.startswith('fc'), 'layer' in name, _natural(name)))


def read_run(folder: str | Path) -> RunReader:
    """Reads a run folder; treats its files as untrusted and executes none.

    Raises:
      InputFileError: config.json, result.json or environment.json is an object that no run writes.
    """
    folder = Path(folder)
    parts: JsonDict = {
        name: _read_json(folder / f'{name}.json')
        for name in ('config', 'environment', 'result', 'model', 'memory', 'evaluation', 'corruptions', 'failed')
    }
    samples, answers = _read_arrays(folder / 'samples.npz'), _read_arrays(folder / 'predictions.npz')
    for name, check in (('config', check_config), ('result', check_result), ('environment', check_environment)):
        if parts[name]:
            parts[name] = check(parts[name], folder / f'{name}.json')
    return RunReader(
        folder.resolve().name,
        **parts,
        metrics=_read_rows(folder / METRICS),
        timing=_read_rows(folder / TIMING),
        changes=read_config_changes(folder),
        wrong=_of_rank(samples.get('wrong'), 4, np.uint8),
        wrong_maps=_of_rank(samples.get('wrong_maps'), 3, np.uint8),
        pairs=_of_rank(samples.get('pairs'), 5, np.uint8),
        map=_of_rank(samples.get('map'), 2, np.floating),
        map_labels=_of_rank(samples.get('map_labels'), 1, np.integer),
        samples=_read_png(folder / 'plots' / 'samples.png'),
        augmentation=_read_png(folder / 'plots' / 'augmentation.png'),
        filters=samples.get('filters'),
        log_probabilities=answers.get('log_probabilities'),
        labels=answers.get('labels'),
        fingerprint=str(answers.get('fingerprint', '')),
    )


@contextlib.contextmanager
def reported(folders: Sequence[str | Path]) -> Iterator[None]:
    """Turns errors that a report raises for files that no run writes into an InputFileError that names the folders."""
    try:
        yield
    except _ODD as error:
        raise InputFileError(
            f'a file of {", ".join(map(str, folders))} is not what a run writes ({type(error).__name__}: '
            f'{one_line(error)[:200]}); leave that run out, or delete the file'
        ) from None


def read_config_changes(folder: Path) -> list[ConfigChange]:
    """Returns the config changes in changes.json of a run folder; [] if there is none."""
    try:
        return read_changes(parse_json(read_text(folder / 'changes.json')))
    except (OSError, ValueError):
        return []


def read_runs(folders: Sequence[str | Path]) -> list[RunReader]:
    """Reads several run folders; the names of runs with equal names are extended by parts of their paths until they differ.

    Raises:
      ConfigError: a folder is given twice.
      InputFileError: a folder is not a run folder; otherwise see `read_run`.
    """
    paths = [Path(folder).resolve() for folder in folders]
    runs = []
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise ConfigError(f'{folder} is given {paths.count(path)} times; expected different run folders')
        run = read_run(path)
        if not run.config:
            raise InputFileError(f'no run in {folder}: expected a folder with config.json, as training makes it')
        length = next(n for n in range(1, len(path.parts) + 1) if [p.parts[-n:] for p in paths].count(path.parts[-n:]) == 1)
        runs.append(dataclasses.replace(run, name='/'.join(path.parts[-length:])))
    return runs


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), '') if part.isdigit() else (-1, part) for part in re.split(r'(\d+)', name)]


def _read_json(path: Path) -> JsonDict:
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_rows(path: Path) -> list[Row]:
    try:
        return read_rows(path)
    except OSError:
        return []


def _read_png(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with path.open('rb') as file, Image.open(file, formats=['PNG']) as image:
            return np.asarray(image.convert('RGB')) if image.width * image.height <= _LARGEST_SHEET else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow raises all of these for damaged files
        return None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except (OSError, ValueError):
        return {}


def _of_rank(array: np.ndarray | None, rank: int, kind: Any) -> np.ndarray | None:
    """Returns the array if it has the rank `rank`, a dtype of kind `kind` and finite numbers; otherwise None."""
    if array is None or array.ndim != rank or not np.issubdtype(array.dtype, kind):
        return None
    return array if np.isfinite(array).all() else None
