import importlib.util
import json
import sys
from pathlib import Path

import pytest

from resnet_jax import config_file, plugins
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError
from resnet_jax.network import build_model
from resnet_jax.study.entries import cross, expand, grid, load_study, sweep, zipped
from resnet_jax.study.runner import check_made_alike

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / 'configs' / 'study').glob('[!_]*.py'))


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_products_and_zips():
    assert grid(a=[1, 2], b=['x']) == [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'x'}]
    assert zipped(a=[1, 2], b=[3, 4]) == [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]
    with pytest.raises(ValueError):
        zipped(a=[1], b=[])


def test_sweeps_of_zips_in_products_have_names_that_say_what_they_are(tmp_path):
    points = cross(
        zipped(optimizer=['sgd', 'adam'], learning_rate=[0.1, 0.001]), grid(**{'model_kwargs.stage_sizes': [[1, 1]]})
    )
    entries = sweep('quickstart', points)
    assert list(entries) == [
        f'optimizer={name},stage_sizes=1,1' for name in ('sgd,learning_rate=0.1', 'adam,learning_rate=0.001')
    ]
    first, second = expand({'entries': entries, 'sizes': {'cpu': {'seeds': [3]}}}, 'cpu', tmp_path)
    assert (first.config['optimizer'], first.config['learning_rate'], first.seed) == ('sgd', 0.1, 3)
    assert second.config['model_kwargs'] == {'stage_sizes': [1, 1]} and second.config['learning_rate'] == 0.001


def test_an_entry_may_have_seeds_and_overrides_of_its_own_in_a_size(tmp_path):
    own = {'config': 'quickstart', 'sizes': {'cpu': {'seeds': [0], 'overrides': {'num_epochs': 1}}}}
    study = {
        'entries': {'usual': {'config': 'quickstart'}, 'own': own},
        'sizes': {'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 5}}, 'full': {'seeds': [2]}},
    }
    made = [(str(run.folder.relative_to(tmp_path)), run.config['num_epochs']) for run in expand(study, 'cpu', tmp_path)]
    assert made == [('usual/seed0', 5), ('own/seed0', 1), ('usual/seed1', 5)]
    assert [str(run.folder.relative_to(tmp_path)) for run in expand(study, 'full', tmp_path)] == ['usual/seed2', 'own/seed2']


def test_another_number_of_seeds(tmp_path):
    study = {
        'entries': {'a': {'config': 'quickstart'}, 'b': {'config': 'quickstart', 'sizes': {'cpu': {'seeds': [7]}}}},
        'sizes': {'cpu': {'seeds': [0]}},
    }
    assert [(run.entry, run.seed) for run in expand(study, 'cpu', tmp_path, 2)] == [('a', 0), ('a', 1), ('b', 7)]
    with pytest.raises(ConfigError, match=r'^100000000 seeds; expected at least 1 and at most 10000$'):
        expand(study, 'cpu', tmp_path, 10**8)


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_run_of_every_study_is_a_valid_config(path, tmp_path):
    spec = importlib.util.spec_from_file_location('study', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    study = module.get_study()
    for size in study['sizes']:
        runs = expand(study, size, tmp_path)
        assert len({run.folder for run in runs}) == len(runs)
        names = {run.entry for run in runs}
        assert {
            study.get('baseline', runs[0].entry),
            *(e['baseline'] for e in study['entries'].values() if 'baseline' in e),
        } <= names
        for run in runs:
            config = TrainConfig.from_mapping(run.config)
            assert config.seed == run.seed
            build_model(config, 10, (32, 32, 3))


@pytest.mark.parametrize(
    'entry',
    [{'config': 'nowhere'}, {'config': 'quickstart', 'overrides': {'leaning_rate': 1}}],
)
def test_what_does_not_exist_is_refused(entry, tmp_path):
    study = {'entries': {'one': entry}, 'sizes': {'cpu': {'seeds': [0]}}}
    with pytest.raises(ConfigError, match='expected'):
        expand(study, 'cpu', tmp_path)
    with pytest.raises(ConfigError, match='folder'):
        expand({**study, 'entries': {'../up': entry}}, 'cpu', tmp_path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('def get_study(', r'could not be read \(SyntaxError'),
        ('', r'could not be read \(AttributeError: .*get_study'),
        ('def get_study():\n    return 1 / 0', r'could not be read \(ZeroDivisionError'),
        ('def get_study():\n    return []', "expected a dict with 'entries'"),
        ("def get_study():\n    return {'entries': {'a': {'config': 'quickstart'}}}", "expected a dict with 'sizes'"),
        ("def get_study():\n    return {'entries': {'a': {}}, 'sizes': {'cpu': {}}}", "entry 'a' has no 'config'"),
        (
            "def get_study():\n    return {'entries': {'a': {'config': 'quickstart'}}, 'sizes': {'cpu': {'seeds': []}}}",
            "size 'cpu' has no seeds",
        ),
        (
            "def get_study():\n    return {'imports': 'one', 'entries': {'a': {'config': 'quickstart'}}, 'sizes': {'cpu': {}}}",
            "'imports' is 'one'; expected a list",
        ),
    ],
)
def test_a_file_that_is_no_study_is_one_line(text, message, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ConfigError, match=message) as info:
        load_study(tmp_path / 'mine.py')
    assert str(tmp_path / 'mine.py') in str(info.value)


def test_loading_a_study_imports_none_of_its_modules():
    study = load_study(config_file.find('finetuning', 'study'))
    assert study['imports']
    assert not set(study['imports']) & {*plugins.imported, *sys.modules}


def test_points_that_would_share_a_folder_are_refused():
    with pytest.raises(ConfigError, match=r"'learning_rate=0\.1'"):
        sweep('quickstart', [{'learning_rate': 0.1}, {'learning_rate': '0.1'}])


def test_a_study_that_has_changed_since_its_runs_were_made(tmp_path):
    def runs(**overrides):
        entries = {'a': {'config': 'quickstart', 'overrides': overrides}}
        return expand({'entries': entries, 'sizes': {'cpu': {'seeds': [0]}}}, 'cpu', tmp_path)

    (run,) = runs(learning_rate=0.1)
    check_made_alike([run])  # nothing there yet
    run.folder.mkdir(parents=True)
    (run.folder / 'config.json').write_text(json.dumps(TrainConfig.from_mapping(run.config).to_dict()))
    check_made_alike(runs(learning_rate=0.1, eval_batch_size=10))  # a field that may change
    with pytest.raises(ConfigError, match=r'a/seed0 holds a run of another config \(learning_rate: 0.1 -> 0.2\)'):
        check_made_alike(runs(learning_rate=0.2))
