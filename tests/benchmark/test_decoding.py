"""The decoding benchmark: both sides read the same pictures, and each side is measured while it has nothing in store."""

import itertools

import numpy as np
import pytest
from PIL import Image

from resnet_jax.benchmark import decoding
from resnet_jax.benchmark.decoding import measure_decoding, parse_pictures, seconds_for, table
from resnet_jax.benchmark.measure import Effort
from resnet_jax.errors import InputFileError


@pytest.fixture
def folder(tmp_path):
    for i in range(8):
        for part in ('train', 'val'):
            path = tmp_path / part / 'ab'[i % 2] / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (300, 260, 3), np.uint8)).save(path)
    return tmp_path


def test_what_was_ready_before_is_not_counted(monkeypatch):
    """Three batches wait ready-made; after them one comes each second of a clock of ours."""
    clock, seen = [0.0], []

    def batches():
        for number in itertools.count():
            clock[0] += 1.0 if number >= 3 else 0.0
            seen.append(number)
            yield number

    monkeypatch.setattr(decoding.time, 'monotonic', lambda: clock[0])
    assert seconds_for(batches(), 4, 5) == 5.0 and seen == list(range(9))


def test_the_peer_does_what_torchvision_does(folder):
    """Its boxes have the published distribution; of a whole picture its pixels are those of ours, mirrored or not."""
    import torch

    from resnet_jax.benchmark import torch_pictures
    from resnet_jax.data.images import read_crop

    torch.manual_seed(0)
    boxes = np.array([torch_pictures.random_box(3000, 3000) for _ in range(2000)])
    area = boxes[:, 2] * boxes[:, 3] / 3000**2
    assert abs(np.median(area[area <= 0.75]) - (0.08 + 0.75) / 2) < 0.03
    assert torch_pictures.random_box(1000, 30) == (480, 0, 40, 30)
    subject = torch_pictures.Decoding(f'folder:{folder}', 4, 1)
    box = torch_pictures.random_box
    torch_pictures.random_box = lambda width, height: (0, 0, width, height)
    try:
        pictures = torch_pictures.Pictures(subject._paths, subject._labels, floats=False)
        picture, label = pictures[3]
        scaled = torch_pictures.Pictures(subject._paths, subject._labels, floats=True)[3][0]
    finally:
        torch_pictures.random_box = box
    ours = read_crop(subject._paths[3], (224, 224, 3), lambda height, width: (0, 0, height, width))
    theirs = picture.permute(1, 2, 0).numpy()
    assert label == 1 and (np.array_equal(ours, theirs) or np.array_equal(ours, theirs[:, ::-1]))
    assert scaled.dtype == torch.float32 and 0 <= scaled.min() < scaled.max() <= 1


@pytest.mark.slow
def test_both_sides_are_measured(folder):
    row = measure_decoding(f'folder:{folder}', 4, Effort(2, 0.1), peer=True, workers=1)
    assert set(row['images_per_second']) == {'threads', 'workers', 'float', 'uint8'}
    assert all(len(rates) == 2 and min(rates) > 0 for rates in row['images_per_second'].values())
    assert row['ours']['pictures'] == 8 and row['ratio']['n'] == 2
    text = table(row)
    assert 'ratio ' in text and text.count('\n| ') == 5


def test_a_folder_that_is_not_there_is_an_error_of_its_own():
    with pytest.raises(InputFileError, match='is not a folder'):
        decoding.Decoding('folder:/no/such', 4, 1)
    assert parse_pictures('pictures', []) == ('folder:pictures', 64)
    assert parse_pictures('tfds:imagenet2012', [32]) == ('tfds:imagenet2012', 32)
