"""Class weights against scikit-learn's and PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import torch
from sklearn.utils.class_weight import compute_class_weight

from resnet_jax.data import DatasetInfo
from resnet_jax.errors import ConfigError
from resnet_jax.training.class_weights import class_weights, weight_labels
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loading import device_data, load_batch
from resnet_jax.training.state import create_train_state
from resnet_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compilation')

WEIGHTS = np.array([0.3, 1.0, 4.0], np.float32)
LABELS = np.random.default_rng(0).choice(3, 24, p=[0.6, 0.3, 0.1]).astype(np.int32)
IMAGES = np.random.default_rng(1).integers(0, 256, (24, 4, 4, 1), np.uint8)
ORDER = np.arange(23, 11, -1).astype(np.int32)


def test_balanced_as_scikit_learn():
    expected = compute_class_weight('balanced', classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(class_weights('balanced', LABELS, 3), expected, rtol=1e-6)
    np.testing.assert_array_equal(class_weights((1, 2.5), LABELS, 2), np.array([1, 2.5], np.float32))


def test_balanced_needs_an_example_of_every_class():
    with pytest.raises(ConfigError, match=r"^class_weights='balanced' needs an example of every class, and of class 3 none"):
        class_weights('balanced', LABELS, 4)


def test_numbers_for_as_many_classes_as_there_are():
    info = DatasetInfo('stripes', (8, 8, 1), 3, 50, 19, (0.5,), (0.5,))
    with pytest.raises(ConfigError, match=r'^class_weights has 2 numbers and stripes has 3 classes; expected one for each'):
        create_experiment(tiny.checked(class_weights=(1, 2)), info)
    experiment = create_experiment(tiny.checked(class_weights='balanced'), info)
    placed = device_data(experiment, tiny.split(51, 1))
    np.testing.assert_allclose(placed['class_weights'], np.ones(3), rtol=1e-6)
    assert 'class_weights' not in device_data(create_experiment(tiny.checked(), info), tiny.split(51, 1))


def test_what_is_for_colours_needs_them():
    grey, two = (DatasetInfo('stripes', (8, 8, channels), 3, 50, 19, (0.5,), (0.5,)) for channels in (1, 2))
    create_experiment(tiny.checked(auto_augment='randaugment'), grey)
    for changes, info, expected in (({'hue': 0.1}, grey, '3'), ({'auto_augment': 'randaugment'}, two, '1 or 3')):
        with pytest.raises(ConfigError, match=rf'is for images of {expected} channels and stripes has .*; expected it unset'):
            create_experiment(tiny.checked(**changes), info)


def loaded(positions, **kwargs):
    load = functools.partial(load_batch, num_classes=3, mean=(0.5,), std=(0.25,), **kwargs)
    return jax.jit(load)(IMAGES, LABELS, ORDER, np.array(positions, np.int32), 0, jax.random.key(0), WEIGHTS)


def loss_and_update(batch, accumulation=1):
    model, tx = tiny.Linear(), optax.sgd(1.0)
    state = create_train_state(model, tx, IMAGES.shape[1:], 3)
    step = functools.partial(train_step, model=model, tx=tx, axis_name=None, accumulation=accumulation)
    new, metrics = jax.jit(step)(state, batch, jax.random.key(0))
    return state.params['fc'], metrics, jax.tree.map(lambda a, b: a - b, state.params, new.params)['fc']


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_loss_and_gradient_as_torch(smoothing):
    batch = loaded(range(12), label_smoothing=smoothing)
    params, metrics, gradient = loss_and_update(batch)
    weight = torch.tensor(np.array(params['kernel']), requires_grad=True)
    logits = torch.tensor(np.array(batch['image'])).flatten(1) @ weight + torch.tensor(np.array(params['bias']))
    label = torch.tensor(LABELS[ORDER].astype(np.int64))
    criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), label_smoothing=smoothing)
    loss = criterion(logits, label)
    loss.backward()
    np.testing.assert_allclose(metrics['loss'], loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient['kernel'], weight.grad, atol=1e-5)
    assert float(metrics['accuracy']) == pytest.approx((logits.argmax(1) == label).float().mean().item())


def test_microbatches_and_devices_average_to_the_loss_of_the_whole_batch():
    whole = loaded(range(12), label_smoothing=0.1)
    _, metrics, gradient = loss_and_update(whole)
    _, parts, summed = loss_and_update(whole, accumulation=3)
    np.testing.assert_allclose(parts['loss'], metrics['loss'], rtol=1e-5)
    np.testing.assert_allclose(summed['kernel'], gradient['kernel'], atol=1e-5)
    shards = [loaded(positions, label_smoothing=0.1) for positions in np.split(np.arange(12), 2)]
    for name, values in whole.items():
        np.testing.assert_allclose(np.concatenate([shard[name] for shard in shards]), values, atol=1e-6)


@pytest.mark.parametrize('mixing', [{'mixup_alpha': 0.7}, {'cutmix_alpha': 1.0}])
def test_mixed_labels_are_weighted_with_the_weights_of_both_examples(mixing):
    """Each weighted label is the share of its own weighted label and of the opposite one's; their sums keep their sum."""
    plain, mixed = (loaded(range(12), **options) for options in ({}, mixing))
    one_hot = np.eye(3)[LABELS[ORDER]]
    scale = 12 / WEIGHTS[LABELS[ORDER]].sum()
    np.testing.assert_allclose(plain['weighted_label'], scale * one_hot * WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(mixed['weighted_label'], scale * np.asarray(mixed['label']) * WEIGHTS, atol=1e-5)
    np.testing.assert_allclose(np.sum(mixed['weighted_label']), 12, rtol=1e-5)


def test_equal_weights_change_nothing():
    label = np.eye(3, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(weight_labels(label, jnp.full(3, 7.0), LABELS), label, rtol=1e-6)
