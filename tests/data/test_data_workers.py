"""Worker processes that decode: the same images for any number of them, and how they end."""

import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_folder import load

from resnet_jax.data import workers
from resnet_jax.data.order import StepImages, epoch_order
from resnet_jax.data.workers import WorkerSteps
from resnet_jax.errors import ConfigError, InputFileError, ResourceError

# What a caller's script would do; the workers import it again, as `multiprocessing` does.
SCRIPT = """
import sys
import numpy as np
from resnet_jax.data import load_dataset
from resnet_jax.data.order import StepImages
from resnet_jax.data.workers import WorkerSteps

if __name__ == '__main__':
    images = load_dataset(f'folder:{sys.argv[1]}', decode='always', image_size=16, normalization='imagenet').train.image
    steps = WorkerSteps(StepImages(images, seed=1, num_epochs=9, batch_size=4, positions=np.arange(4), crop_area=0.08), 1)
    steps[0]
    from multiprocessing import active_children

    print(*[child.pid for child in active_children()], flush=True)
    sys.stdin.read()
"""


def pictures(root, count=24):
    for i in range(count):
        for part in ('train', 'val'):
            path = root / part / 'ab'[i % 2] / f'{i:02}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def steps_of(root, positions=(0, 1, 2, 3), **changes):
    train = load(root, decode='always', image_size=16, normalization='imagenet').train.image
    options = {'seed': 1, 'num_epochs': 2, 'batch_size': 4, 'positions': np.array(positions, np.int32), 'crop_area': 0.08}
    return StepImages(train, **{**options, **changes})


@pytest.mark.parametrize('count', [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_the_images_are_the_same_from_any_step_on_until_one_is_broken(tmp_path, count):
    steps = steps_of(pictures(tmp_path))
    expected = [steps[step] for step in range(12)]
    last = steps.images.split.describe(int(epoch_order(1, 1, 24, 4)[5, 2]))  # shown last in the second epoch
    Path(last).write_bytes(b'no image')
    read = WorkerSteps(steps, count)
    for step in (7, 8, 9, 10, 6, 7, 8, 9, 10):  # and back, as after a rollback
        np.testing.assert_array_equal(read[step], expected[step])
    with pytest.raises(InputFileError, match=f'^{re.escape(last)} was changed while'):
        read[11]
    read.close()
    read.close()


def test_they_end_with_a_parent_that_is_killed_and_do_not_hear_ctrl_c(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    parent = subprocess.Popen([sys.executable, str(script), str(pictures(tmp_path / 'set'))], **pipes)
    children = [int(child) for child in parent.stdout.readline().split()]
    assert children
    for child in children:
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
    time.sleep(0.5)
    assert all(map(_runs, children))
    parent.kill()
    parent.wait()
    while any(map(_runs, children)):  # the test's own time limit ends it
        time.sleep(0.05)
    assert 'Traceback' not in parent.stderr.read()
    parent.stdin.close()
    parent.stdout.close()
    parent.stderr.close()


def _runs(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_one_that_is_killed_is_an_error_of_resources(tmp_path):
    before = set(active_children())
    read = WorkerSteps(steps_of(pictures(tmp_path), num_epochs=1000), 1)
    read[0]
    for child in set(active_children()) - before:
        child.kill()
    with pytest.raises(ResourceError, match=r'^a process that decodes images was killed \(decode_workers=1\): out of memory\?'):
        for step in range(1, 20):
            read[step]
    read.close()


def test_without_grain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'grain', None)
    with pytest.raises(ConfigError, match=r"^decode_workers needs Grain.* 'resnet_jax\[grain\]', or decode_workers=0"):
        WorkerSteps(steps_of(pictures(tmp_path)), 2)


def test_too_little_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 3000})())
    monkeypatch.setattr(workers, '_SHARED_MEMORY', tmp_path)
    with pytest.raises(ResourceError, match=r'^2 processes that decode need 0 MiB in .* --shm-size'):
        WorkerSteps(steps_of(pictures(tmp_path / 'set')), 2)
