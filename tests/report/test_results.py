import csv
import dataclasses
import json

import pytest

from resnet_jax.report.results import collect, write_results
from resnet_jax.report.runs import read_run


@pytest.fixture
def run(tmp_path):
    empty = read_run(tmp_path)
    return lambda accuracy: dataclasses.replace(
        empty, result={'accuracy': accuracy, 'count': 100, 'test_views': 'mirror'} if accuracy else {}
    )


def test_means_over_seeds_and_no_winner_inside_the_noise(run, tmp_path):
    entries = {
        'base': {0: run(0.70), 1: run(0.72), 2: run(0.74)},
        'up': {0: run(0.80), 1: run(0.82), 2: run(0.841)},
        'noise': {0: run(0.75), 1: run(0.70), 2: run(0.76)},
        'single': {0: run(0.9), 1: run(None), 2: run(None)},
        'none': {0: run(None)},
    }
    found = collect(entries)
    assert [entry['status'] for entry in found['entries'].values()] == ['run', 'run', 'run', 'partly run', 'not run']
    base = found['entries']['base']['accuracy']
    assert (base['mean'], base['sd']) == (pytest.approx(0.72), pytest.approx(0.02))
    verdicts = {name: one['verdict'] for name, one in found['comparisons'].items()}
    assert verdicts == {
        'up': 'better',
        'noise': 'no difference beyond the noise',
        'single': 'one seed: says nothing of the recipe',
    }
    paths = write_results(found, tmp_path)
    assert json.loads(paths[0].read_text(), parse_constant=pytest.fail) == json.loads(json.dumps(found))
    with paths[1].open() as file:
        lines = list(csv.DictReader(file))
        assert {row['test_views'] for row in lines} == {'mirror'}
        assert [row['entry'] for row in lines] == ['base'] * 3 + ['up'] * 3 + ['noise'] * 3 + ['single']
