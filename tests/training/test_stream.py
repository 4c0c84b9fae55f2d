"""Images that are sent to the devices in chunks: the same runs as with images that stay there, to the bit."""

import json

import jax
import numpy as np
import pytest
import tiny
from sampling import sample

from resnet_jax.data.order import StepImages, epoch_order
from resnet_jax.runtime import prefetch
from resnet_jax.training import stream, trainer
from resnet_jax.training.api import Callback
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.training.program import TrainingProgram

pytestmark = pytest.mark.usefixtures('quick_compilation')

STRIPES = tiny.dataset(60, 19)
BATCH_BYTES = 16 * 8 * 8
LITTLE = 1e-9  # GiB


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tiny.register(monkeypatch, STRIPES)
    monkeypatch.setattr(trainer, 'plot_so_far', lambda folder: None)


def config(**overrides):
    everything = {'model': 'tiny', 'model_kwargs': {}, 'alternating_flip': True, 'mixup_alpha': 0.2, 'log_every': 1}
    return tiny.config(**{**everything, 'num_epochs': 3, **overrides})


def rows(folder):
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [{name: value for name, value in row.items() if 'second' not in name} for row in lines]


def chunks_of(patch, steps):
    """Two steps of three fit a chunk, or one; the test images of two batches of eight."""
    patch.setattr(stream, 'CHUNK_BYTES', steps * BATCH_BYTES)
    patch.setattr('resnet_jax.evaluation.evaluator.CHUNK_BYTES', 16 * 8 * 8)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run with the images on the devices: its folder, and what it returned."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch, STRIPES)
        patch.setattr(trainer, 'plot_so_far', lambda folder: None)
        return folder, train_and_evaluate(config(), folder)


class _StopAt(Callback):
    def __init__(self, step):
        self._step = step

    def on_step(self, step, metrics):
        if step == self._step:
            raise RuntimeError('killed')


@pytest.mark.parametrize(
    'overrides', sample([{}, {'class_weights': 'balanced', 'mixup_alpha': 0.0}], 2), ids=['mixup', 'weights']
)
def test_a_streamed_run_is_that_of_images_on_the_devices(tmp_path, monkeypatch, overrides, whole):
    folder, result = whole
    if overrides:
        folder = tmp_path / 'whole'
        result = train_and_evaluate(config(**overrides), folder)
    chunks_of(monkeypatch, 2)
    streamed = train_and_evaluate(config(device_data_gib=LITTLE, **overrides), tmp_path / 'streamed')
    assert rows(tmp_path / 'streamed') == rows(folder) and len(rows(folder)) >= 9
    for ours, theirs in zip(*(jax.tree.leaves(run.classifier.variables) for run in (streamed, result)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_killed_run_continues_with_the_next_batch(tmp_path, monkeypatch, whole):
    folder, result = whole
    chunks_of(monkeypatch, 1)
    with pytest.raises(RuntimeError, match='killed'):
        train_and_evaluate(config(device_data_gib=LITTLE), tmp_path / 'killed', callbacks=[_StopAt(5)])
    resumed = train_and_evaluate(config(device_data_gib=LITTLE), tmp_path / 'killed')
    assert rows(tmp_path / 'killed') == rows(folder)
    for ours, theirs in zip(*(jax.tree.leaves(run.classifier.variables) for run in (resumed, result)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class _Counted:
    """Images that remember which were read."""

    def __init__(self, images):
        self._images, self.shape, self.nbytes, self.read = images, images.shape, images.nbytes, []

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        self.read.extend(np.atleast_1d(index).tolist())
        return self._images[index]


def test_a_process_reads_its_own_shard_and_each_image_once_an_epoch():
    order = [epoch_order(5, epoch, 60, 16) for epoch in range(2)]
    images = _Counted(STRIPES.train.image)
    ours = np.arange(4, 8)  # positions of the devices of this process in the global batch
    each = stream.ImageStream(StepImages(images, seed=5, num_epochs=2, batch_size=16, positions=ours))
    data, end = each.at(0, 0)
    assert end == 3 and int(data['first_step']) == 0
    each.at(0, 2)
    np.testing.assert_array_equal(
        np.asarray(data['image']).reshape(3, 16, 8, 8, 1)[:, ours], STRIPES.train.image[order[0][:, ours]]
    )
    data, _ = each.at(1, 0)
    np.testing.assert_array_equal(
        np.asarray(data['image']).reshape(3, 16, 8, 8, 1)[:, ours], STRIPES.train.image[order[1][:, ours]]
    )
    each.close()
    assert images.read == [*order[0][:, ours].ravel(), *order[1][:, ours].ravel()]  # and nothing after the last epoch


def test_at_most_two_chunks_are_in_memory():
    made = []
    values = prefetch.Prefetch(lambda key: made.append(key) or key)
    for key in range(5):
        assert values.get(key, key + 1) == key and len(values._made) == 2
    assert values.get(3, 4) == 3  # back, after a rollback
    values.close()
    assert made == [0, 1, 2, 3, 4, 5, 3]


def test_an_error_of_the_source_reaches_the_caller():
    def fail(key):
        raise OSError('gone')

    with pytest.raises(OSError, match='gone'):
        prefetch.Prefetch(fail).get(0, 1)


def test_what_fits_stays(monkeypatch):
    from resnet_jax.runtime import memory
    from resnet_jax.training.experiment import create_experiment

    experiment = create_experiment(tiny.checked(), STRIPES.info)
    assert TrainingProgram(experiment, STRIPES.train)._stream is None
    size = STRIPES.train.image.nbytes
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2 * 4 * size - 1)  # four devices share a CPU's memory
    assert TrainingProgram(experiment, STRIPES.train)._stream is not None
    assert memory.fits_on_devices(size, 1.0) and not memory.fits_on_devices(size + 2**30, 1.0)
