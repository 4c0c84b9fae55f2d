"""Runs whose images are decoded each time: those of decoded images to the bit, and the same after a kill."""

import numpy as np
import pytest
import tiny
from PIL import Image
from test_stream import _StopAt, rows

from resnet_jax.classifier import load_run
from resnet_jax.data import load_dataset
from resnet_jax.data.on_demand import EncodedImages
from resnet_jax.evaluation.predictions import load_predictions, predict_split
from resnet_jax.runtime import prefetch
from resnet_jax.training import stream, trainer
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.training.samples import first_images
from resnet_jax.training.seeds import train_seeds

STRIPES = tiny.dataset(60, 19)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tiny.register(monkeypatch, STRIPES)
    monkeypatch.setattr(trainer, 'plot_so_far', lambda folder: None)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The stripes as PNG files, in a frame of noise that only a crop of the whole picture shows."""
    root = tmp_path_factory.mktemp('pictures')
    for part, split in (('train', STRIPES.train), ('val', STRIPES.test)):
        for i, (image, label) in enumerate(zip(split.image, split.label, strict=True)):
            path = root / part / STRIPES.class_names[label] / f'{i:03}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(image, 3, axis=2)).save(path)
    return root


def config(folder, decode='always', **overrides):
    options = {'dataset': f'folder:{folder}', 'decode': decode, 'image_size': 8, 'normalization': 'imagenet'}
    return tiny.config(**{**options, 'model': 'tiny', 'model_kwargs': {}, 'log_every': 1, 'num_epochs': 3, **overrides})


def one_step_at_a_time(patch):
    patch.setattr(stream, 'CHUNK_BYTES', 16 * 8 * 8 * 3)
    patch.setattr('resnet_jax.evaluation.evaluator.CHUNK_BYTES', 8 * 8 * 8 * 3)


def same(first, second):
    import jax

    for ours, theirs in zip(*(jax.tree.leaves(run.classifier.variables) for run in (first, second)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_is_that_of_decoded_images(tmp_path, folder, monkeypatch):
    once = train_and_evaluate(config(folder, 'once', validation_size=12), tmp_path / 'once')
    one_step_at_a_time(monkeypatch)
    always = train_and_evaluate(config(folder, validation_size=12, device_data_gib=1e-9), tmp_path / 'always')
    assert rows(tmp_path / 'always') == rows(tmp_path / 'once') and len(rows(tmp_path / 'once')) >= 9
    same(always, once)


@pytest.mark.slow
def test_a_killed_run_continues_with_the_next_crops(tmp_path, folder, monkeypatch):
    changes = {'resized_crop_area': 0.08, 'mixup_alpha': 0.2, 'test_crop': 0.875}
    whole = train_and_evaluate(config(folder, **changes), tmp_path / 'whole')
    one_step_at_a_time(monkeypatch)
    with pytest.raises(RuntimeError, match='killed'):
        train_and_evaluate(config(folder, **changes), tmp_path / 'killed', callbacks=[_StopAt(5)])
    resumed = train_and_evaluate(config(folder, **changes), tmp_path / 'killed')
    assert rows(tmp_path / 'killed') == rows(tmp_path / 'whole')
    same(resumed, whole)
    # What is saved knows how the test images were shown.
    classifier = load_run(tmp_path / 'whole')
    assert (classifier.crop, classifier.interpolation) == (0.875, 'bilinear')
    options = {'decode': 'always', 'image_size': 8, 'normalization': 'imagenet', 'test_crop': 0.875}
    dataset = load_dataset(f'folder:{folder}', **options)
    shown = classifier.read(dataset.test.image.split.describe(3))
    np.testing.assert_array_equal(shown, dataset.test.image[3:4][0])
    again, recorded = predict_split(classifier, dataset, 8), load_predictions(tmp_path / 'whole')
    np.testing.assert_array_equal(again.log_probabilities, recorded.log_probabilities)
    # The sheet of samples shows the run's own crops.
    experiment = create_experiment(tiny.checked(**{**dict(config(folder, **changes)), 'mixup_alpha': 0.0}), dataset.info)
    sheet = first_images(experiment, dataset.train)
    assert sheet.shape == (8, 8, 8, 8, 3)
    from resnet_jax.training.loading import step_images

    first = step_images(experiment, dataset.train, np.arange(8, dtype=np.int32))[0].astype(int)
    mirrored = np.abs(np.stack([first, first[:, :, ::-1]]) - sheet[:, 1].astype(int)).max(axis=(2, 3, 4))
    assert (mirrored.min(axis=0) <= 1).all()


def test_threads_end_with_the_run(tmp_path, folder, monkeypatch):
    made = []
    original = prefetch.Prefetch.__init__
    monkeypatch.setattr(prefetch.Prefetch, '__init__', lambda self, make: original(self, make) or made.append(self))
    with pytest.raises(RuntimeError, match='killed'):
        train_and_evaluate(config(folder), tmp_path / 'run', callbacks=[_StopAt(2)])
    of_stream = [each for each in made if each._make.__self__.__class__.__name__ == 'ImageStream']
    assert len(of_stream) == 1 and of_stream[0]._pool._shutdown and not of_stream[0]._made


def test_several_seeds_take_turns(tmp_path, folder, monkeypatch):
    from resnet_jax.errors import ConfigError

    with pytest.raises(ConfigError, match=r'^seeds cannot be trained together with decode=always'):
        train_seeds(config(folder), tmp_path, 2, together=True)


def test_half_a_batch_needs_half_of_the_images(folder):
    """Of two processes with mixup each needs its own images and those at the other end of the batch."""
    from resnet_jax.training.loading import step_images

    split = load_dataset(f'folder:{folder}', decode='always', image_size=8, normalization='imagenet').train
    assert isinstance(split.image, EncodedImages)
    experiment = create_experiment(tiny.checked(batch_size=16), STRIPES.info)
    assert step_images(experiment, split, np.arange(4, dtype=np.int32)).positions.tolist() == [0, 1, 2, 3]
    mixed = create_experiment(tiny.checked(batch_size=16, mixup_alpha=0.2), STRIPES.info)
    assert step_images(mixed, split, np.arange(4, dtype=np.int32)).positions.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
