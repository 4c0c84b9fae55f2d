import importlib.util
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError
from resnet_jax.study.entries import expand, grid, zipped
from resnet_jax.training.config import validate
from resnet_jax.training.experiment import build_model

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / 'configs' / 'study').glob('*.py'))


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_products_and_zips():
    assert grid(a=[1, 2], b=['x']) == [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'x'}]
    assert zipped(a=[1, 2], b=[3, 4]) == [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]
    with pytest.raises(ValueError):
        zipped(a=[1], b=[])


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_run_of_every_study_is_a_valid_config(path, tmp_path):
    spec = importlib.util.spec_from_file_location('study', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    study = module.get_study()
    for size in study['sizes']:
        runs = expand(study, size, tmp_path)
        assert len({run.folder for run in runs}) == len(runs)
        assert study['baseline'] in {run.entry for run in runs}
        for run in runs:
            assert validate(ConfigDict(run.config))['seed'] == run.seed
            build_model(run.config, 10)


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
