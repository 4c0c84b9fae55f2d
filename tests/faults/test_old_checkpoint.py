"""format1/ holds a checkpoint as the first format wrote it, after one of three epochs of the tiny network. It stays readable.

Made by bin/train.py with the flags below and without `divergence_retries`, which that version did not have.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from faults_support import arrays, rows, steps, train

from resnet_jax.evaluation.run import load_run
from resnet_jax.runs import checkpoint

FORMAT1 = Path(__file__).parent / 'format1'
FLAGS = ('--config.num_epochs=3', '--config.log_every=7')


def test_its_numbers_are_what_they_were():
    checkpoint.verify(FORMAT1 / 'checkpoints' / '10')
    found = arrays(FORMAT1 / 'checkpoints' / '10')
    assert len(found) == 47 and found['opt_state/1/1/count'] == found['step'] == 10
    expected = {
        'params/fc/bias': (
            '-0x1.968c1ap-4 0x1.489244p-3 0x1.9775eap-6 -0x1.131d58p-4 -0x1.1b14bp-3 '
            '0x1.4ffa32p-4 0x1.22987cp-5 0x1.39d8f8p-2 0x1.0035d2p-9 -0x1.39f6dp-2'
        ),
        'batch_stats/bn1/var': '0x1.6f8db6p+0 0x1.ae47b2p+0',
        'opt_state/1/0/trace/bn1/scale': '0x1.e86ecap-5 0x1.6f121ep-4',
        'ema/params/bn1/scale': '0x1.da63fcp-1 0x1.add4f6p-1',
    }
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], [float.fromhex(value) for value in values.split()], err_msg=name)


def test_it_is_a_run_to_evaluate():
    run = load_run(FORMAT1)
    assert run.step == 10 and run.config['divergence_retries'] == 0
    assert run.predict(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 10)


@pytest.mark.slow
def test_it_is_a_run_to_continue(tmp_path):
    workdir = shutil.copytree(FORMAT1, tmp_path / 'run')
    assert 'after iteration 10' in train(workdir, *FLAGS).stdout
    assert steps(workdir)[-1] == 30
    # What the first version's own run wrote there; the first three steps of the row are in the checkpoint.
    row = rows(workdir, 'train')[0]
    assert row['step'] == 14 and row['loss'] == pytest.approx(2.306883232934134, rel=1e-3)
    assert row['learning_rate'] == pytest.approx(0.15358267724514008, rel=1e-6)
