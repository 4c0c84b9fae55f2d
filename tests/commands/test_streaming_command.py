"""Training on pictures that worker processes decode: what happens to the processes when the run ends in another way."""

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from commands_support import command, error_line, run
from PIL import Image

FLAGS = (
    *('--config=configs/quickstart.py', '--config.model_kwargs.num_filters=4', '--config.model_kwargs.stage_sizes=1,1'),
    *('--config.decode=always', '--config.image_size=16', '--config.normalization=imagenet', '--config.decode_workers=2'),
    *('--config.resized_crop_area=0.08', '--config.crop_padding=0', '--config.warmup_epochs=0.5', '--config.log_every=1'),
    *('--config.batch_size=8', '--config.eval_batch_size=8'),
)


@pytest.fixture
def pictures(tmp_path):
    for i in range(24):
        for part in ('train', 'val'):
            path = tmp_path / 'set' / part / 'ab'[i % 2] / f'{i:02}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return tmp_path / 'set'


def flags(pictures, workdir, epochs):
    return *FLAGS, f'--config.dataset=folder:{pictures}', f'--config.num_epochs={epochs}', f'--workdir={workdir}'


@pytest.mark.slow
def test_ctrl_c_to_all_processes_saves_the_state_and_the_run_continues(pictures, tmp_path):
    options = command('train.py', *flags(pictures, tmp_path / 'run', 60))
    process = subprocess.Popen(
        **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, bufsize=1
    )
    seen = ''
    for line in process.stdout:
        seen += line
        if 'Epoch 2' in line:
            os.killpg(process.pid, signal.SIGINT)  # as the terminal does
            break
    seen += process.stdout.read()
    assert process.wait() == 130 and 'the state is saved' in seen and 'Traceback' not in seen, seen
    assert 'resource_tracker' not in seen
    while _anything_runs(process.pid):  # the test's own time limit ends it
        time.sleep(0.05)
    process.stdout.close()
    assert 'after iteration' in run('train.py', *flags(pictures, tmp_path / 'run', 60)).stdout


def _anything_runs(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_broken_picture_is_one_line(pictures, tmp_path):
    broken = pictures / 'train' / 'b' / '05.png'
    broken.write_bytes(b'no picture')
    done = run('train.py', *flags(pictures, tmp_path / 'run', 3), code=3)
    assert error_line(done).startswith(f'error: {broken} cannot be read') and 'resource_tracker' not in done.stderr


@pytest.mark.slow
def test_what_is_missing_is_one_line(pictures, tmp_path):
    line = error_line(run('train.py', *flags(pictures, tmp_path / 'run', 3), '--config.image_size=0', code=2))
    assert (
        line == "error: decode='always' does not look at all images first; expected their size, such as --config.image_size=224"
    )
