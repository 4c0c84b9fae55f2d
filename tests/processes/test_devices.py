"""Saved on 1, 2 or 4 devices and continued on 1, 2 or 4."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands_support import TINY, command, run
from pair import arrays, rows

DEVICES = (1, 2, 4)
# 22 iterations an epoch. With the statistics of each device's part of the batch the devices would count.
ARGUMENTS = (
    *TINY,
    '--config.num_epochs=2',
    '--config.checkpoint_every_epochs=1',
    '--config.log_every=1',
    '--config.cross_device_batch_norm=True',
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """{devices: the run folder of a run on so many, killed with a checkpoint of iteration 22}"""
    folders = {}
    for devices in DEVICES:
        folders[devices] = workdir = tmp_path_factory.mktemp('saved') / str(devices)
        options = command('train.py', *ARGUMENTS, f'--workdir={workdir}', devices=devices, RESNET_JAX_FAILPOINT='step:23:kill')
        assert subprocess.run(**options, capture_output=True).returncode == -signal.SIGKILL
        assert (workdir / 'checkpoints' / '22' / 'SHA256SUMS').exists() and not (workdir / 'checkpoints' / '44').exists()
    return folders


@pytest.mark.parametrize('devices', DEVICES)
def test_the_restored_state_and_the_order_of_the_data_are_the_same(saved, devices):
    driver = [sys.executable, Path(__file__).with_name('restored.py'), *(saved[n] / 'checkpoints' / '22' for n in DEVICES)]
    options = {**command('train.py', devices=devices), 'args': driver}
    done = subprocess.run(**options, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for n, actual in zip(DEVICES, json.loads(done.stdout), strict=True):
        expected = {name: [hashlib.sha256(array).hexdigest()] * devices for name, array in arrays(saved[n], 22).items()}
        assert actual['leaves'] == expected
        assert actual['order'] == json.loads(done.stdout)[0]['order']
    order = Path(saved[1] / 'order')  # noted by the first of these tests, compared by the others
    if not order.exists():
        order.write_text(actual['order'])
    assert order.read_text() == actual['order']


@pytest.mark.parametrize('before', DEVICES)
def test_the_losses_go_on_the_same(saved, before, tmp_path):
    losses = {}
    for devices in DEVICES:
        workdir = shutil.copytree(saved[before], tmp_path / str(devices))
        assert 'after iteration 22.' in run('train.py', *ARGUMENTS, f'--workdir={workdir}', devices=devices).stdout
        losses[devices] = [row['loss'] for row in rows(workdir) if row['split'] == 'train' and 22 < row['step'] <= 42]
    assert len(losses[before]) == 20
    for devices in DEVICES:
        difference = np.abs(np.subtract(losses[devices], losses[before])).max()
        print(f'saved on {before}, continued on {devices}: losses differ by at most {difference:.1e} in 20 steps')
        assert difference < 1e-4
