"""The same pixels from different sources are the same data: the fingerprint, and the rows of a run."""

import json
import os

import numpy as np
import pytest
from commands_support import run
from PIL import Image

from resnet_jax.data import load_dataset, tfds_folder

REAL_ROOT = os.environ.get('TFDS_DATA_DIR', '')


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL_ROOT or not tfds_folder.find_folder(tfds_folder.tfds_root(REAL_ROOT), 'cifar10'),
    reason='no CIFAR-10 in TFDS_DATA_DIR',
)
def test_cifar10_as_a_folder_of_png_files_and_as_arrays(tmp_path):
    official = load_dataset('cifar10', data_dir=REAL_ROOT)
    for part, split in (('train', official.train), ('test', official.test)):
        for name in official.class_names:
            (tmp_path / part / name).mkdir(parents=True)
        for i, (image, label) in enumerate(zip(split.image, split.label, strict=True)):
            Image.fromarray(image).save(tmp_path / part / official.class_names[label] / f'{i:05}.png', compress_level=1)
    train, test = official.train, official.test
    arrays = {'image': train.image, 'label': train.label, 'test_image': test.image, 'test_label': test.label}
    np.savez(tmp_path / 'a.npz', class_names=official.class_names, **arrays)
    names = (f'folder:{tmp_path}', f'arrays:{tmp_path}/a.npz')
    for name in names:
        copy = load_dataset(name, normalization='cifar10')
        assert copy.fingerprint == official.fingerprint and copy.class_names == official.class_names
        assert (copy.mean, copy.std) == (official.mean, official.std)
    rows = []
    for i, name in enumerate(('cifar10', *names)):
        small = ('--config.train_size=512', '--config.num_epochs=1', '--config.warmup_epochs=0', '--config.model=resnet8')
        more = (f'--config.dataset={name}', f'--config.data_dir={REAL_ROOT}', '--config.normalization=cifar10')
        run('train.py', '--config=configs/resnet20.py', *small, *more, f'--workdir={tmp_path}/run{i}', timeout=600)
        lines = (tmp_path / f'run{i}' / 'metrics.jsonl').read_text().splitlines()
        rows.append([{key: value for key, value in json.loads(line).items() if 'second' not in key} for line in lines])
    assert rows[0] == rows[1] == rows[2] and len(rows[0]) >= 2
