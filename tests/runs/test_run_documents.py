"""The JSON documents of a run folder that no run wrote: one line that names the file, wherever it is read."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny
from run_files import write_folder

from resnet_jax.classifier import Origin
from resnet_jax.errors import InputFileError
from resnet_jax.export.card import result_of
from resnet_jax.runs.folder import RunFolder
from resnet_jax.runs.reader import read_run
from resnet_jax.study.entries import StudyRun
from resnet_jax.study.report import write_study_report
from resnet_jax.study.runner import check_made_alike

MISSING = object()
RESULT = {
    **{'split': 'test', 'selected': 'last', 'tta': 'none', 'step': 66, 'epoch': 3, 'loss': 0.25, 'accuracy': 0.9},
    **{'count': 360, 'seconds': 24.5},
}
WRONG = [
    *(('accuracy', value) for value in (MISSING, None, 'x', True, 5, -0.1, 1e308, [1])),
    *(('count', value) for value in (MISSING, None, 0, -5, 'x', 1.5)),
    *(('loss', value) for value in (MISSING, 'x', {})),
    *(('step', value) for value in (MISSING, -1, 1.5, 2**62)),
    *(('epoch', value) for value in (MISSING, 1e300, 'x')),
    *(('split', value) for value in (MISSING, 5, [])),
    *(('selected', value) for value in (MISSING, [], 'x')),
    *(('tta', value) for value in (5, {})),
    *(('seconds', value) for value in ('x', -1)),
    *(('ema_accuracy', value) for value in (0.5, None)),  # the loss of the averaged parameters belongs to it
]


def changed(document, field, value):
    rest = {name: old for name, old in document.items() if name != field}
    return rest if value is MISSING else {**rest, field: value}


@pytest.fixture
def study(tmp_path):
    """Two entries with two seeds each."""
    config = tiny.checked().to_dict()
    runs = [StudyRun(entry, seed, config, tmp_path / entry / f'seed{seed}') for entry in 'ab' for seed in (0, 1)]
    for run in runs:
        write_folder(run.folder, run.seed)
    return {'name': 's', 'entries': {entry: {'config': 'x'} for entry in 'ab'}}, runs


def test_what_a_run_writes_is_its_result(tmp_path):
    folder = RunFolder(tmp_path, tiny.checked())
    assert folder.read_result() is None and read_run(tmp_path).result == {}
    for result in (RESULT, {**RESULT, 'ema_accuracy': 0.5, 'ema_loss': 1}):
        (tmp_path / 'result.json').write_text(json.dumps(result))
        assert folder.read_result() == read_run(tmp_path).result == result


@pytest.mark.parametrize(('field', 'value'), WRONG)
def test_a_result_that_no_run_wrote_is_one_line_wherever_it_is_read(field, value, study, tmp_path):
    folder = tmp_path / 'b' / 'seed0'
    (folder / 'result.json').write_text(json.dumps(changed(RESULT, field, value)))
    origin = Origin('resnet8', {}, str(folder), step=66, config=tiny.checked())
    readers = {
        'train': RunFolder(folder, tiny.checked()).read_result,
        'export': lambda: result_of(SimpleNamespace(origin=origin)),
        'compare': lambda: read_run(folder),
        'study': lambda: write_study_report(*study, tmp_path / 'out'),
    }
    for name, reader in readers.items():
        with pytest.raises(InputFileError, match=r'seed0/result\.json is not what a run ends with .*; delete it') as caught:
            reader()
        assert '\n' not in str(caught.value), name


def test_averaged_parameters_without_a_result_of_theirs(tmp_path):
    (tmp_path / 'result.json').write_text(json.dumps(RESULT))
    origin = Origin('resnet8', {}, str(tmp_path), step=66, config=tiny.checked(), ema=True)
    with pytest.raises(InputFileError, match=r'result\.json has no ema_accuracy'):
        result_of(SimpleNamespace(origin=origin))
    assert result_of(SimpleNamespace(origin=dataclasses.replace(origin, step=67))) == {}  # another checkpoint's


@pytest.mark.parametrize(
    'change', [{'num_epochs': 'x'}, {'num_epochs': None}, {'batch_size': 0}, {'model': 5}, {'seed': 2**62}], ids=str
)
def test_a_config_that_no_run_wrote_is_one_line_wherever_it_is_read(change, study, tmp_path):
    folder = tmp_path / 'b' / 'seed0'
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, **change}))
    readers = {
        'compare': lambda: read_run(folder),
        'study': lambda: write_study_report(*study, tmp_path / 'out'),
        'before a study': lambda: check_made_alike(study[1][2:3]),
    }
    for reader in readers.values():
        with pytest.raises(InputFileError, match=rf'seed0/config\.json .*{next(iter(change))}'):
            reader()


def test_a_field_of_another_version_can_be_compared(tmp_path):
    (tmp_path / 'config.json').write_text('{"num_epochs": 3, "of_a_later_version": [1]}')
    assert read_run(tmp_path).config['of_a_later_version'] == [1]


@pytest.mark.parametrize('name', ['environment', 'model', 'memory', 'evaluation', 'failed', 'corruptions'])
def test_other_odd_documents_leave_a_study_with_a_report_or_one_line(name, study, tmp_path, monkeypatch):
    monkeypatch.setattr('resnet_jax.report.study_plots.plot_study', lambda *_: None)
    path = tmp_path / 'b' / 'seed0' / f'{name}.json'
    document, refused = json.loads(path.read_text()) if path.exists() else {'reason': 'error: x; y'}, 0
    for field in document:
        for value in (5, 'x', [[]]):
            path.write_text(json.dumps({**document, field: value}))
            try:
                write_study_report(*study, tmp_path / 'out')
            except InputFileError as error:
                refused += 1
                assert 'is not what a run writes' in str(error) and '\n' not in str(error)
    assert refused or name in ('environment', 'memory', 'failed', 'corruptions')
