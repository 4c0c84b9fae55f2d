"""format2/ holds a checkpoint of version 0.2.0, after one of three epochs of the tiny network. It stays readable.

Made by the train command with the flags below.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from faults_support import arrays, rows, steps, train

from resnet_jax.classifier import Classifier
from resnet_jax.runs import checkpoint

FORMAT2 = Path(__file__).parent / 'format2'
FLAGS = ('--config.num_epochs=3', '--config.log_every=7')


def test_its_numbers_are_what_they_were():
    checkpoint.verify(FORMAT2 / 'checkpoints' / '10')
    actual = arrays(FORMAT2 / 'checkpoints' / '10')
    assert len(actual) == 47 and actual['opt_state/1/1/count'] == actual['step'] == 10
    expected = {
        'params/fc/bias': (
            '-0x1.968c1cp-4 0x1.489242p-3 0x1.9775e8p-6 -0x1.131d56p-4 -0x1.1b14bp-3 '
            '0x1.4ffa2ep-4 0x1.22987cp-5 0x1.39d8f8p-2 0x1.003602p-9 -0x1.39f6d2p-2'
        ),
        'batch_stats/bn1/var': '0x1.6f8db6p+0 0x1.ae47b2p+0',
        'opt_state/1/0/trace/bn1/scale': '0x1.e86ecep-5 0x1.6f121cp-4',
        'ema/params/bn1/scale': '0x1.da63fcp-1 0x1.add4f6p-1',
    }
    for name, values in expected.items():
        assert actual[name].dtype == np.float32
        np.testing.assert_array_equal(actual[name], [float.fromhex(value) for value in values.split()], err_msg=name)


def test_it_is_a_run_to_evaluate():
    classifier = Classifier.load(FORMAT2)
    assert classifier.origin.step == 10
    assert classifier.logits(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 10)


@pytest.mark.slow
def test_it_is_a_run_to_continue(tmp_path):
    workdir = shutil.copytree(FORMAT2, tmp_path / 'run')
    assert 'after iteration 10' in train(workdir, *FLAGS).stdout
    assert steps(workdir)[-1] == 30
    # What that version's own run wrote there; the first three steps of the row are in the checkpoint.
    row = rows(workdir, 'train')[0]
    assert row['step'] == 14 and row['loss'] == pytest.approx(2.306883301053728, rel=1e-3)
    assert row['learning_rate'] == pytest.approx(0.15358267724514008, rel=1e-6)
