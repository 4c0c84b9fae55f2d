import dataclasses

import pytest

from resnet_jax.report.markdown import tables
from resnet_jax.report.results import collect
from resnet_jax.runs.reader import read_run


@pytest.fixture
def results(tmp_path):
    empty = read_run(tmp_path)

    def run(accuracy, step=250):
        norms = {'conv1': 0.5, 'fc': 9.0, 'layer1_0/conv1': 1.0, 'layer10_0/conv1': 2.0, 'layer2_0/conv1': 1.5}
        return dataclasses.replace(
            empty,
            config={'num_epochs': 3, 'train_size': 5000, 'batch_size': 100, 'dataset': 'cifar10'},
            result={'accuracy': accuracy, 'count': 10000, 'seconds': 60.0},
            model={'parameters': 1234567, 'multiply_adds': 40},
            memory={'state_bytes': 3 * 2**20, 'scratch_bytes': None},
            timing=[{'step': 1, 'images_per_second': 400.0}],
            metrics=[
                {'step': 1, 'split': 'gradients', 'norms': norms},
                {'step': step, 'split': 'test', 'accuracy': accuracy, 'loss': 1.0},
                {'step': 500, 'split': 'test', 'accuracy': accuracy, 'loss': 1.0},
                {'step': 500, 'split': 'train', 'accuracy': 0.1, 'loss': 2.302},
            ],
            environment={'devices': 1, 'device': 'a CPU', 'cpu_cores': 2, 'packages': {'jax': '0.10.2', 'numpy': '2'}},
            fingerprint='0123456789abcdef',
        )

    failed = dataclasses.replace(empty, failed={'reason': 'error: out of memory | here; use less'})
    study = {'name': 's', 'entries': {'b': {'expected': {'accuracy': 91.25, 'source': 'table 6'}}}}
    study['published'] = {'paper': {'accuracy': [[250, 39.7], [750, 58.4]]}}
    return collect(study, {'a': {0: run(0.5), 1: run(0.52)}, 'b': {0: run(0.6)}, 'c': {0: failed}})


def test_tables_say_what_results_hold(results):
    text = tables(results)
    for line in (
        '| a | 3 epochs of 5,000 images, batch 100 | 2.302 | 51.00 ± 1.41 % (n = 2, 95 % 38.29 to 63.71) | - | - |',
        '| 2.302 | 60.00 % (n = 1) | 91.25 % (table 6) | +10.00 to a: one seed: says nothing of the recipe |',
        '| c | - | - | out of memory / here | - | - |',
        '| a | 2 | 1,234,567 | 40 | 3 MiB | - | 400 | 250.0 | 60 s |',
        '| iteration | paper | a | b |',
        '| 250 | 39.7 | 51.0 | 60.0 |',
        '| a | 1 | 0.5 | 2 | 0.25 |',
        'Run on 1 x a CPU, 2 cores, jax 0.10.2. Data: cifar10, 10,000 test images, SHA-256 0123456789ab...',
    ):
        assert line in text
    assert '| 750' not in text and '| 500' not in text
