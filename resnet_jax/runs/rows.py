"""The rows that a run logs: metrics.jsonl, and timing.jsonl for values that differ between runs of one config."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.runs.documents import is_integer, is_share
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.typing import Json, Row

METRICS, TIMING = 'metrics.jsonl', 'timing.jsonl'


def read_rows(path: Path) -> list[Row]:
    """Returns the undamaged rows of metrics.jsonl or timing.jsonl; [] if there is no such file."""
    rows = []
    for line in read_text(path).splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # half written
            rows.append(parse_json(line, lenient=True))
    return [row for row in rows if _is_row(row)]


def _is_row(value: object) -> bool:
    if not isinstance(value, dict) or not is_integer(value.get('step')) or not isinstance(value.get('split'), str):
        return False
    return value.get('accuracy') is None or is_share(value['accuracy'])


class RowFiles:
    """The two files of a run; rows that cannot be written are kept and written with the next rows."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._backlog = {METRICS: '', TIMING: ''}

    def start(self, step: int, splits: Sequence[str], again: str | None) -> None:
        """Keeps the rows of `splits` up to `step`, or before `step` for the split `again`."""

        def belongs(line: str) -> bool:
            try:
                row = json.loads(line)
                last = step - 1 if row['split'] == again else step
                return line.endswith('\n') and row['step'] <= last and row['split'] in splits
            except (ValueError, KeyError, TypeError, RecursionError):  # half written, or damaged by a power cut
                return False

        for name in self._backlog:
            self._backlog[name] = ''
            path = self._folder / name
            lines = read_text(path).splitlines(keepends=True) if path.exists() else []
            kept = [line for line in lines if belongs(line)] if step else []
            if kept != lines:
                write_atomically(path, ''.join(kept), durable=True)

    def add(self, rows: Sequence[Json], timing: Json) -> None:
        """Adds rows of metrics, and a row with `timing` for each; `write` writes them."""
        self._backlog[METRICS] += ''.join(json.dumps(row) + '\n' for row in rows)
        times = [{'step': row['step'], 'split': row['split'], **timing} for row in rows]
        self._backlog[TIMING] += ''.join(json.dumps(row) + '\n' for row in times)

    def write(self) -> None:
        """Appends the rows that are not written yet; on an OSError the unwritten rows are kept."""
        for name, text in self._backlog.items():
            if text:
                _append(self._folder / name, text)
                self._backlog[name] = ''


def _append(path: Path, text: str) -> None:
    """Appends the whole text, or nothing on failure."""
    with path.open('ab') as file:
        size = file.seek(0, os.SEEK_END)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # rows must reach the disk before the checkpoint that follows them
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise
