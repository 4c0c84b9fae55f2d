import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import Split
from resnet_jax.evaluation import evaluator as evaluation
from resnet_jax.evaluation.evaluator import Evaluator
from resnet_jax.forward import forward

SIZE, CLASSES = 19, 3
MEAN, STD = (0.5,), (0.1,)
TRACES = []  # the shapes that the network below was traced for


class Pixels(nn.Module):
    """The three pixels of an image, times a parameter, are its logits."""

    weights: tuple[int, ...] = (1, 1, 1)

    @nn.compact
    def __call__(self, images, *, train):
        assert not train
        TRACES.append(images.shape)
        return images.reshape(len(images), 3) * jnp.array(self.weights)[None] * self.param('scale', nn.initializers.ones, ())


def variables(scale=1.0):
    return {'params': {'scale': jnp.float32(scale)}, 'batch_stats': {}}


def split(size=SIZE):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (size, 1, 3, 1), np.uint8)
    return Split(image, rng.integers(0, CLASSES, size).astype(np.int32))


VIEWS = {  # weights, and the pixels that a view has in the places of the three
    'none': [(1.0, [0, 1, 2])],
    'mirror': [(0.5, [0, 1, 2]), (0.5, [2, 1, 0])],
    'mirror_translate': [(0.25, [0, 1, 2]), (0.25, [2, 1, 0]), (0.25, [1, 0, 1]), (0.25, [1, 2, 1])],
}


def by_hand(split, scale=1.0, tta='none', weights=(1, 1, 1)):
    """Loss and confusion matrix, example by example, in float64."""
    loss, confusion = 0.0, np.zeros((CLASSES, CLASSES), int)
    for image, label in zip(split.image, split.label, strict=True):
        pixels = scale * (image.ravel() / 255 - 0.5) / 0.1
        logits = sum(share * np.array(weights) * pixels[places] for share, places in VIEWS[tta])
        loss += np.log(np.exp(logits).sum()) - logits[label]
        confusion[label, logits.argmax()] += 1
    return loss / len(split.label), confusion


def evaluator(split, batch_size, weights=(1, 1, 1), tta='none'):
    logits_fn = functools.partial(forward, model=Pixels(weights), mean=MEAN, std=STD, dtype=jnp.float32, tta=tta)
    return Evaluator(logits_fn, split, batch_size=batch_size, num_classes=CLASSES)


@pytest.mark.parametrize(
    ('size', 'batch_size'),
    [
        (SIZE, 8),  # two whole batches and 3 of 8 examples: the last device has only padding
        (SIZE, 1),  # less than one for each of the four devices
        (SIZE, 1000),  # all at once, and one padded
        (16, 8),  # nothing padded
        (2, 8),  # fewer examples than devices
    ],
)
def test_every_example_counts_once_on_four_devices(size, batch_size):
    assert jax.device_count() == 4
    examples = split(size)
    loss, confusion = by_hand(examples)
    metrics = evaluator(examples, batch_size)(variables())
    assert metrics['count'] == size
    np.testing.assert_array_equal(metrics['confusion'], confusion)
    assert metrics['accuracy'] == pytest.approx(np.trace(confusion) / size)
    assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
    assert len(metrics['per_class_accuracy']) == CLASSES


@pytest.mark.parametrize('tta', ['mirror', 'mirror_translate'])
@pytest.mark.parametrize('batch_size', [8, 1])
def test_every_example_counts_once_with_its_views_averaged(tta, batch_size):
    examples, weights = split(), (1, 2, 3)
    loss, confusion = by_hand(examples, tta=tta, weights=weights)
    metrics = evaluator(examples, batch_size, weights, tta=tta)(variables())
    assert metrics['count'] == SIZE
    np.testing.assert_array_equal(metrics['confusion'], confusion)
    assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
    assert metrics['loss'] != pytest.approx(by_hand(examples, weights=weights)[0], rel=1e-3)


def test_the_batch_size_does_not_change_the_result_beyond_rounding():
    actual = [evaluator(split(), batch_size)(variables()) for batch_size in (4, 12)]
    np.testing.assert_array_equal(actual[0]['confusion'], actual[1]['confusion'])
    assert actual[0]['loss'] == pytest.approx(actual[1]['loss'], rel=1e-6)


def test_it_compiles_once_and_does_not_depend_on_how_many_batches_a_call_takes(monkeypatch):
    evaluate, examples = evaluator(split(), 4), split()
    TRACES.clear()
    first = evaluate(variables())
    traced = len(TRACES)
    assert traced > 0 and set(TRACES) == {(1, 1, 3, 1)}  # one example for each device
    monkeypatch.setattr('resnet_jax.evaluation.evaluator.Pace.size', lambda pace, remaining: 1)
    again, other = evaluate(variables()), evaluate(variables(-0.5))
    assert len(TRACES) == traced
    assert first['loss'] == again['loss']
    np.testing.assert_array_equal(first['confusion'], again['confusion'])
    assert other['loss'] == pytest.approx(by_hand(examples, -0.5)[0], rel=1e-5)


@pytest.mark.parametrize('batches', [1, 2, 3])
def test_images_that_do_not_fit_go_to_the_devices_in_chunks(monkeypatch, batches):
    whole = evaluator(split(), 4)(variables())
    monkeypatch.setattr(evaluation, 'CHUNK_BYTES', batches * 4 * 3)
    logits_fn = functools.partial(forward, model=Pixels(), mean=MEAN, std=STD, dtype=jnp.float32)
    chunks = Evaluator(logits_fn, split(), batch_size=4, num_classes=CLASSES, device_data_gib=1e-9)
    result, again = chunks(variables()), chunks(variables())
    assert result['loss'] == whole['loss'] == again['loss'] and result['count'] == SIZE
    np.testing.assert_array_equal(result['confusion'], whole['confusion'])


def test_progress_is_told():
    seen = []
    evaluator(split(), 8)(variables(), lambda done, batches: seen.append((done, batches)))
    assert seen[-1] == (3, 3) and seen == sorted(seen) and seen[0][0] >= 1


def test_an_example_that_is_not_counted_is_noticed():
    """A label that is none of the classes falls out of the confusion matrix."""
    examples = split()
    examples.label[4] = CLASSES
    with pytest.raises(AssertionError, match='evaluated 18 of 19 examples'):
        evaluator(examples, 8)(variables())
