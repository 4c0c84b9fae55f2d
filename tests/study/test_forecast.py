import json
import os
from pathlib import Path

import pytest

from resnet_jax.study.entries import expand
from resnet_jax.study.forecast import estimate, measure, work
from resnet_jax.study.runner import weigh

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of two entries on the digits: 1,437 images in 22 batches of 64, 360 to test on."""
    monkeypatch.syspath_prepend(str(ROOT))
    small = {'model_kwargs.stage_sizes': [1], 'model_kwargs.num_filters': 4}
    study = {
        'entries': {
            'less': {'config': 'quickstart', 'overrides': {**small, 'eval_every_steps': 10}},
            'more': {'config': 'quickstart', 'overrides': {**small, 'model_kwargs.num_filters': 8}},
        },
        'sizes': {'cpu': {'seeds': [0, 1], 'overrides': {'num_epochs': 5}}},
    }
    return expand(study, 'cpu', tmp_path)


def finish(run, seconds):
    run.folder.mkdir(parents=True)
    result = {'split': 'test', 'selected': 'last', 'accuracy': 0.5, 'loss': 1.0, 'count': 360, 'step': 110, 'epoch': 5}
    (run.folder / 'result.json').write_text(json.dumps({**result, 'seconds': seconds}))


def multiply_adds(filters):
    return 64 * 9 * (filters + 2 * filters**2) + 10 * filters  # 8x8 pixels: the stem, two convolutions, the last layer


def test_work_by_hand(runs):
    trained = 3 * 5 * 22 * 64
    assert work(runs[0].config) == multiply_adds(4) * (trained + 12 * 360)  # 110 / 10 evaluations, and the answers once
    assert work(runs[1].config) == multiply_adds(8) * (trained + 6 * 360)


def test_what_will_be_refused_takes_no_time(runs, monkeypatch):
    monkeypatch.setattr('resnet_jax.runtime.memory.available_bytes', lambda: 100)
    assert work(runs[0].config) == 0


def test_the_time_of_a_study(runs, monkeypatch):
    works = [work(run.config) for run in runs[:2]]
    text = estimate(runs, lambda config: 1000.0 * (config['model_kwargs']['num_filters'] == 4))
    hours = 2 * sum(works) / (3 * multiply_adds(4) * 1000) / 3600
    assert text.startswith(f'4 of 4 runs are left: about {hours:.1f} hours ({hours / 2:.1f} to {2 * hours:.1f}) one')
    assert 'less, measured now (1,000 images/s' in text
    finish(runs[0], 600.0)
    hours = (600 + 2 * 600 * works[1] / works[0]) / 3600
    monkeypatch.setattr('os.getloadavg', lambda: (1.5, 1.0, 1.0))
    text = estimate(runs, None)
    assert text.startswith(f'3 of 4 runs are left: about {hours:.1f} hours (') and 'one after the other, from finished' in text
    assert text.endswith(f'; 1.5 of {os.cpu_count()} cores are busy now, and the time is longer while they are')
    for run in runs[1:]:
        finish(run, 60.0)
    assert estimate(runs, None) == '0 of 4 runs are left'


@pytest.mark.slow
def test_a_measurement_is_one(runs):
    assert measure(runs[0].config, seconds=0.0) > 1


def test_runs_are_weighed_in_a_process_of_its_own(runs, monkeypatch):
    assert weigh(runs) == [work(run.config) for run in runs]
    monkeypatch.setattr('sys.executable', '/bin/false')
    assert weigh(runs) == [1.0] * 4


def test_several_at_once_take_a_part_of_the_time(runs):
    texts = [estimate(runs, lambda config: 1.0, at_once) for at_once in (1, 4)]
    one, four = (float(text.split('about ')[1].split()[0].replace(',', '')) for text in texts)
    assert one == pytest.approx(4 * four, abs=3) and '4 at once' in texts[1]
