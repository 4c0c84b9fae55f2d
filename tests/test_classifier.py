import dataclasses
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax import Classifier, create_model
from resnet_jax.data import load_dataset
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.evaluate import check_fits, evaluate
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.weights import save_safetensors

pytestmark = pytest.mark.usefixtures('quick_compilation')

RUN = {'num_epochs': 1, 'warmup_epochs': 0.5, 'ema_decay': 0.9, 'dataset': 'digits', 'model': 'resnet8', 'batch_size': 64}
RUN |= {'base_batch_size': 64, 'flip': False, 'crop_padding': 1, 'model_kwargs': {'num_filters': 4, 'stage_sizes': (1, 1)}}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    return path, train_and_evaluate(RUN, path)


@pytest.fixture(scope='module')
def test_images():
    return load_dataset('digits').test


def test_a_loaded_run_is_what_training_returned_and_what_its_evaluation_counted(trained, test_images):
    path, returned = trained
    classifier = resnet_jax.load(path)
    assert classifier.class_names == tuple('0123456789') and classifier.image_shape == (8, 8, 1)
    assert (classifier.origin.step, classifier.origin.dataset, classifier.origin.config.batch_size) == (22, 'digits', 64)
    probabilities = classifier.probabilities(test_images.image, batch_size=64)
    assert probabilities.shape == (360, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(returned.classifier.probabilities(test_images.image, batch_size=64), probabilities)
    assert returned.result['accuracy'] == (probabilities.argmax(axis=1) == test_images.label).mean()
    metrics, more = evaluate(classifier, load_dataset('digits'))
    loss = -np.log(probabilities[np.arange(360), test_images.label]).mean()
    assert metrics['loss'] == pytest.approx(loss, rel=1e-4) == returned.result['loss'] and more == {}


def test_the_logits_are_those_of_the_network_by_hand(trained, test_images):
    classifier, images = Classifier.load(trained[0]), test_images.image[:7]
    inputs = (images / 255 - np.array(classifier.mean)) / np.array(classifier.std)
    expected = classifier.model.apply(classifier.variables, jnp.asarray(inputs, jnp.float32), train=False)
    np.testing.assert_allclose(classifier.logits(images), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(classifier.log_probabilities(images), jax.nn.log_softmax(expected), rtol=1e-3, atol=1e-4)
    actual = classifier.features(images)
    np.testing.assert_allclose(actual['logits'], expected, rtol=1e-3, atol=1e-4)
    assert actual['pooled'].shape == (7, 8)
    np.testing.assert_array_equal(classifier.logits(jnp.asarray(images)), classifier.logits(images))


def test_files_of_any_size_and_arrays_are_classified_alike(trained, test_images, tmp_path):
    classifier, image = Classifier.load(trained[0]), test_images.image[0]
    Image.fromarray(image[..., 0]).save(tmp_path / 'small.png')
    Image.fromarray(image[..., 0]).resize((40, 40), Image.Resampling.NEAREST).save(tmp_path / 'large.png')
    from_array, from_file, from_large = (
        *classifier.predict(image[None]),
        *classifier.predict([tmp_path / 'small.png', str(tmp_path / 'large.png')]),
    )
    assert from_array.name == classifier.class_names[from_array.probabilities.argmax()] == from_file.name
    assert from_array.probability == from_array.probabilities.max()
    np.testing.assert_allclose(from_file.probabilities, from_array.probabilities, atol=1e-6)
    np.testing.assert_allclose(from_large.probabilities, from_array.probabilities, atol=0.2)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_what_it_saves_it_loads(trained, test_images, tmp_path, suffix):
    classifier = Classifier.load(trained[0])
    path = tmp_path / f'weights{suffix}'
    classifier.save(path)
    options = {}
    if suffix == '.pth':  # which knows nothing but the arrays
        kwargs = {'num_filters': 4, 'stage_sizes': (1, 1)}
        options = {'model': 'resnet8', 'image_shape': (8, 8, 1), **kwargs}
    again = Classifier.load(path, **options)
    if suffix == '.pth':
        assert again.mean is again.std is None and again.class_names == tuple(map(str, range(10)))
        again = dataclasses.replace(again, mean=classifier.mean, std=classifier.std)
    assert again.class_names == classifier.class_names and again.origin.model == 'resnet8'
    np.testing.assert_array_equal(again.logits(test_images.image[:9]), classifier.logits(test_images.image[:9]))


def test_dtype_and_views_travel_with_the_weights(trained, test_images, tmp_path):
    classifier, images = Classifier.load(trained[0]), test_images.image[:9]
    model = classifier.model.clone(dtype=jnp.bfloat16)
    classifier = dataclasses.replace(classifier, model=model, dtype=np.dtype('bfloat16'), tta='mirror')
    classifier.save(tmp_path / 'a.safetensors')
    again = Classifier.load(tmp_path / 'a.safetensors')
    assert (again.model, again.dtype, again.tta) == (model, classifier.dtype, 'mirror')
    np.testing.assert_array_equal(again.logits(images), classifier.logits(images))


def test_what_nobody_has_said_of_the_images_is_not_made_up(trained, test_images, tmp_path):
    classifier, images = Classifier.load(trained[0]), test_images.image[:9]
    classifier.save(tmp_path / 'a.pth')
    options = {'model': 'resnet8', 'image_shape': (8, 8, 1), 'num_filters': 4, 'stage_sizes': (1, 1)}
    unknown = Classifier.load(tmp_path / 'a.pth', **options)
    as_they_are = Classifier.load(tmp_path / 'a.pth', normalization='none', **options)
    assert (as_they_are.mean, as_they_are.std) == ((0.0,), (1.0,))
    np.testing.assert_array_equal(unknown.logits(images), as_they_are.logits(images))
    for first, mean in ((unknown, None), (as_they_are, (0.0,))):
        first.save(tmp_path / 'b.safetensors')
        assert Classifier.load(tmp_path / 'b.safetensors').mean == mean
    with pytest.raises(ConfigError, match='are not for images of 1 channels'):
        Classifier.load(tmp_path / 'a.pth', normalization='imagenet', **options)


@pytest.mark.parametrize(
    'change',
    [
        {'class_names': ['a']},
        {'class_names': 'abcdefghij'},
        {'class_names': [1] * 10},
        {'mean': [0.5, 0.5]},
        {'std': [0.0]},
        {'std': [float('nan')]},
        {'mean': [10**400]},
        {'mean': None},
        {'dtype': 'float16'},
        {'dtype': ['float32']},
        {'tta': 'all'},
        {'tta': 3},
        {'dataset': 3},
    ],
)
def test_a_file_that_describes_its_weights_wrongly_is_refused(trained, tmp_path, change):
    classifier = Classifier.load(trained[0])
    described = {**classifier.describe(), **change}
    save_safetensors(tmp_path / 'a.safetensors', classifier.variables, {k: v for k, v in described.items() if v is not None})
    with pytest.raises(InputFileError, match=r'a\.safetensors') as error:
        Classifier.load(tmp_path / 'a.safetensors')
    assert str(error.value).isprintable()


def test_averaged_parameters_are_others(trained):
    plain, averaged = (Classifier.load(trained[0], ema=ema) for ema in (False, True))
    assert (plain.origin.ema, averaged.origin.ema) == (False, True)
    plain, averaged = plain.variables, averaged.variables
    assert jax.tree.structure(plain) == jax.tree.structure(averaged)
    assert not np.array_equal(plain['params']['conv1']['kernel'], averaged['params']['conv1']['kernel'])


class Brightest(nn.Module):
    """The two pixels of an image are its logits."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, *, train):
        return images.reshape(len(images), 2) * self.param('scale', nn.initializers.ones, ())


def brightest(**changes):
    variables = {'params': {'scale': jnp.float32(2)}}
    return Classifier(Brightest(), variables, (1, 2, 1), ('left', 'right'), (0.5,), (0.25,), **changes)


@pytest.mark.parametrize('batch_size', [1, 4, 10, 100])
def test_every_image_is_answered_once(batch_size):
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 2, 1), np.uint8)
    logits = 2 * (images.reshape(10, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(brightest().logits(images, batch_size), logits, atol=1e-5)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(brightest().log_probabilities(images, batch_size), expected, atol=1e-5)


def test_views_are_averaged():
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 1), np.uint8)
    actual = brightest(tta='mirror').log_probabilities(images)
    np.testing.assert_allclose(actual, np.full((5, 2), -np.log(2)), atol=1e-5)  # both pixels count alike


def test_no_images_give_no_answers():
    assert brightest().probabilities(np.zeros((0, 1, 2, 1), np.uint8)).shape == (0, 2)
    assert brightest().predict([]) == []


def test_it_is_frozen_and_pickled_without_what_is_compiled():
    classifier, images = brightest(), np.arange(6, dtype=np.uint8).reshape(3, 1, 2, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        classifier.mean = (0.0,)
    expected = classifier.logits(images)
    again = pickle.loads(pickle.dumps(classifier))
    assert again.class_names == classifier.class_names
    np.testing.assert_array_equal(again.logits(images), expected)


def test_what_does_not_go_together_is_no_classifier(tmp_path):
    for changes, text in (
        ({'tta': 'flip'}, "tta must be one of 'none', 'mirror', 'mirror_translate', not 'flip'"),
        ({'class_names': ('left',)}, '1 class names for 2 classes'),
        ({'mean': (0.5, 0.5)}, 'are not for images of 1 channels'),
        ({'std': (0.0,)}, 'std above 0'),
        ({'std': None}, 'are not for images of 1 channels'),
    ):
        with pytest.raises(ConfigError, match=text):
            dataclasses.replace(brightest(), **changes)
    with pytest.raises(ConfigError, match='does not know its model by name'):
        brightest().save(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('images', ['zero.png', [3], [np.zeros((1, 2, 1), np.uint8)]])
def test_what_are_neither_files_nor_an_array_is_refused(images):
    with pytest.raises(ConfigError, match='expected a list of image files or a uint8 array'):
        brightest().predict(images)


@pytest.mark.parametrize('images', [np.zeros((2, 9, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.float32)])
def test_images_of_another_shape_or_dtype_are_refused(trained, images):
    with pytest.raises(ConfigError, match=r'expected uint8 \[n, 8, 8, 1\]'):
        Classifier.load(trained[0]).predict(images)


def test_bad_arguments_are_one_line(trained, tmp_path):
    path, classifier = trained[0], Classifier.load(trained[0])
    with pytest.raises(InputFileError, match='no run in'):
        Classifier.load(tmp_path)
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(InputFileError, match=r'has no checkpoint; wait for the first, or restore .*checkpoints'):
        Classifier.load(tmp_path)
    with pytest.raises(ConfigError, match='is a run folder, which knows its model'):
        Classifier.load(path, model='resnet8')
    with pytest.raises(InputFileError, match='cannot be read'):
        Classifier.load(tmp_path / 'a.pth', model='resnet8')
    with pytest.raises(InputFileError, match=r'no run in .*version1\.5'):
        Classifier.load(tmp_path / 'version1.5')
    with pytest.raises(ConfigError, match='unknown format'):
        classifier.save(tmp_path / 'weights.h5')
    with pytest.raises(InputFileError, match='does not exist; expected an image file'):
        classifier.predict([tmp_path / 'nothing.png'])
    with pytest.raises(ConfigError, match='the network has 10 classes and synthetic_cifar100 has 100'):
        check_fits(classifier, load_dataset('synthetic_cifar100'))
    with pytest.raises(ConfigError, match=r'takes images of \[8, 8, 1\] and synthetic_cifar10 has \[32, 32, 3\]'):
        check_fits(classifier, load_dataset('synthetic_cifar10'))


def linear(seed, **changes):
    model = (
        create_model('lenet5_relu', num_classes=3) if seed == 2 else create_model('resnet8', 3, stage_sizes=(1,), num_filters=4)
    )
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)), train=False)
    facts = {'image_shape': (32, 32, 3), 'class_names': ('a', 'b', 'c'), 'mean': (0.4,), 'std': (0.2,), **changes}
    return Classifier(model, variables, **facts)


def test_an_ensemble_has_the_mean_of_the_logits_of_its_members():
    members = [linear(0), linear(1), linear(2)]
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    ensemble = Classifier.ensemble(members)
    expected = np.mean([member.logits(images) for member in members], axis=0)
    np.testing.assert_allclose(ensemble.logits(images), expected, rtol=1e-4, atol=1e-5)
    best = expected.argmax(1)
    assert [prediction.name for prediction in ensemble.predict(images)] == [ensemble.class_names[i] for i in best]


def test_members_that_do_not_go_together_are_named():
    with pytest.raises(ConfigError, match='no members'):
        Classifier.ensemble([])
    with pytest.raises(ConfigError, match=r'member 2 of the ensemble has std \(0.3,\) and the first \(0.2,\)'):
        Classifier.ensemble([linear(0), linear(1, std=(0.3,))])
    with pytest.raises(ConfigError, match='does not know its model by name'):
        Classifier.ensemble([linear(0), linear(1)]).describe()
