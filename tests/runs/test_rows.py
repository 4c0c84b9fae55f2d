import json

import pytest

from resnet_jax.runs.rows import METRICS, TIMING, RowFiles, read_rows


def row(step, split='train'):
    return {'step': step, 'split': split, 'loss': 0.5}


def test_damaged_rows_are_left_out(tmp_path):
    path = tmp_path / METRICS
    assert read_rows(path) == []
    lines = [
        json.dumps(row(1)),
        '[1]',
        '{"step": "2", "split": "train"}',
        '{"step": 3}',
        json.dumps(row(4)),
        '{"step": 5, "spl',
    ]
    path.write_text('\n'.join(lines))
    assert read_rows(path) == [row(1), row(4)]


def test_rows_after_the_step_that_a_run_continues_from_are_dropped(tmp_path):
    files = RowFiles(tmp_path)
    files.add([row(1), row(2), row(2, 'test'), row(2, 'other'), row(3)], {'seconds': 1.0})
    files.write()
    RowFiles(tmp_path).start(2, ['train', 'test'], 'test')
    assert read_rows(tmp_path / METRICS) == [row(1), row(2)]
    assert [each['seconds'] for each in read_rows(tmp_path / TIMING)] == [1.0, 1.0]


def test_what_cannot_be_written_comes_with_the_next(tmp_path):
    files = RowFiles(tmp_path / 'gone')
    files.add([row(1)], {})
    with pytest.raises(FileNotFoundError):
        files.write()
    (tmp_path / 'gone').mkdir()
    files.add([row(2)], {})
    files.write()
    assert read_rows(tmp_path / 'gone' / METRICS) == [row(1), row(2)]
