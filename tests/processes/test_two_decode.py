"""Two processes that decode pictures in every epoch: each its own part of the batch."""

import numpy as np
import pytest
from commands_support import TINY, run
from pair import Pair, arrays, assert_same_run, rows
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for part, count in (('train', 20), ('val', 7)):
        for label in range(2):
            for i in range(count):
                path = folder / part / 'ab'[label] / f'{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                size = (int(rng.integers(9, 14)), int(rng.integers(9, 14)), 3)
                Image.fromarray((128 * label + rng.integers(0, 128, size)).astype(np.uint8)).save(path)
    chosen = {'dataset': f'folder:{folder}', 'decode': 'always', 'image_size': 8, 'normalization': 'imagenet', 'num_epochs': 2}
    chosen |= {'resized_crop_area': 0.3, 'batch_size': 8, 'eval_batch_size': 2, 'log_every': 1, 'cross_device_batch_norm': True}
    return (*TINY, *(f'--config.{name}={value}' for name, value in chosen.items()), '--config.checkpoint_every_epochs=1')


def test_they_end_as_one_process_with_two_devices_and_continue_after_a_kill(flags, tmp_path):
    run('train.py', *flags, f'--workdir={tmp_path / "one"}', devices=2)
    pair = Pair(tmp_path / 'two', *flags)
    assert pair.wait() == [0, 0], pair.errors
    left, right = arrays(tmp_path / 'one'), arrays(tmp_path / 'two')
    assert left['step'] == 10
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert [row['step'] for row in rows(tmp_path / 'one')] == [row['step'] for row in rows(tmp_path / 'two')]

    pair = Pair(tmp_path / 'killed', *flags, failpoints={1: 'step:7:kill'})
    pair.until_failed(1)
    pair.wait(60)
    pair = Pair(tmp_path / 'killed', *flags)
    assert pair.wait() == [0, 0], pair.errors
    assert 'after iteration 5.' in ''.join(pair.lines[0])
    assert_same_run(tmp_path / 'two', tmp_path / 'killed')
