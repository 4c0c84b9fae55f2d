"""Published test sets in files as their authors write them, with few images."""

import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, log_loss

from resnet_jax import Classifier, create_model
from resnet_jax.data.class_names import class_names
from resnet_jax.data.sources import SOURCES
from resnet_jax.data.tfds_folder import official_order
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.cifar_variants import (
    EXTRA_CORRUPTIONS,
    check_cifar10,
    compare_cifar10h,
    evaluate_cifar10_1,
    evaluate_cifar10c,
)
from resnet_jax.evaluation.corruptions import CORRUPTIONS
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.evaluation.text import format_evaluation

pytestmark = pytest.mark.usefixtures('quick_compilation')
N = 8


@pytest.fixture(scope='module')
def classifier():
    model = create_model('resnet8', stage_sizes=(1,), num_filters=4)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    return Classifier(model, variables, (32, 32, 3), class_names('cifar10'), (0.5,), (0.25,))


def write_cifar10c(folder, names):
    """<corruption>.npy with five severities one after the other, and labels.npy, as in CIFAR-10-C.tar."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    labels = np.tile(rng.integers(0, 10, N), 5).astype(np.uint8)
    np.save(folder / 'labels.npy', labels)
    images = {name: rng.integers(0, 256, (5 * N, 32, 32, 3), np.uint8) for name in names}
    for name, array in images.items():
        np.save(folder / f'{name}.npy', array)
    return images, labels


@pytest.mark.parametrize('extra', [(), EXTRA_CORRUPTIONS])
def test_cifar10c(classifier, tmp_path, extra):
    images, labels = write_cifar10c(tmp_path, [*CORRUPTIONS, *extra])
    actual = evaluate_cifar10c(classifier, tmp_path, batch_size=7)
    right = {}
    for name, array in images.items():
        predicted = classifier.logits(array).argmax(1)
        for s in range(5):
            part = slice(s * N, (s + 1) * N)
            right[name, s] = accuracy_score(labels[part], predicted[part])
            assert actual['errors'][name][s] == pytest.approx(1 - right[name, s])
    # RobustBench: the mean of all pairs of corruption and severity.
    assert actual['accuracy'] == pytest.approx(np.mean([right[name, s] for name in CORRUPTIONS for s in range(5)]))
    assert actual['mean_corruption_error'] == pytest.approx(1 - actual['accuracy']) and actual['count'] == N
    expected = pytest.approx(1 - np.mean(list(right.values()))) if extra else None
    assert actual['mean_corruption_error_19'] == expected
    metrics = Predictions(classifier.log_probabilities(images['fog']), labels, '').describe()
    text = format_evaluation('x', class_names('cifar10'), metrics, {'cifar10c': actual})
    assert f'CIFAR-10-C accuracy {100 * actual["accuracy"]:.2f} %: the mean over 15 corruptions and 5 severities of 8' in text
    assert ('with the four extra corruptions' in text) == bool(extra)


def test_cifar10_1(classifier, tmp_path):
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), rng.integers(0, 10, 20).astype(np.int32)
    np.save(tmp_path / 'cifar10.1_v6_data.npy', images)
    np.save(tmp_path / 'cifar10.1_v6_labels.npy', labels)
    actual = evaluate_cifar10_1(classifier, tmp_path)
    assert list(actual) == ['v6'] and actual['v6']['count'] == 20
    probabilities = classifier.probabilities(images).astype(float)
    probabilities /= probabilities.sum(1, keepdims=True)
    assert actual['v6']['accuracy'] == accuracy_score(labels, probabilities.argmax(1))
    assert actual['v6']['loss'] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-5)
    assert 'CIFAR-10.1 v6 accuracy' in format_evaluation(
        'x', class_names('cifar10'), Predictions(np.log(probabilities), labels, '').describe(), {'cifar10_1': actual}
    )


@pytest.mark.parametrize('kind', ['counts', 'probs'])
def test_cifar10h_in_the_official_order_beside_images_in_another(tmp_path, kind):
    rng = np.random.default_rng(2)
    labels = np.arange(40, dtype=np.int32) % 10
    counts = rng.multinomial(51, [0.64, *[0.04] * 9], size=40)
    counts = np.stack([np.roll(row, label) for row, label in zip(counts, labels, strict=True)])
    counts[5] = np.roll(counts[5], 1)  # most people name another class
    values = counts if kind == 'counts' else counts / counts.sum(1, keepdims=True)
    np.save(tmp_path / f'cifar10h-{kind}.npy', values)
    order = rng.permutation(40)
    logits = rng.normal(size=(40, 10))
    answers = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    actual = compare_cifar10h(Predictions(answers, labels[order], '', 'mirror'), tmp_path, order)
    human, network = (counts / counts.sum(1, keepdims=True))[order], np.exp(answers.astype(float))
    network /= network.sum(1, keepdims=True)
    assert actual['kl_divergence'] == pytest.approx(scipy.stats.entropy(human, network, axis=1).mean(), rel=1e-5)
    assert actual['human_entropy'] == pytest.approx(scipy.stats.entropy(human, axis=1).mean())
    assert actual['cross_entropy'] == pytest.approx(actual['kl_divergence'] + actual['human_entropy'])
    # Each person's answer as an example of its own: the mean log loss is the cross entropy.
    image, answer = np.repeat(np.arange(40), 51), np.concatenate([np.repeat(np.arange(10), row) for row in counts[order]])
    assert actual['cross_entropy'] == pytest.approx(log_loss(answer, network[image], labels=range(10)), rel=1e-5)
    assert actual['plurality_accuracy'] == (answers.argmax(1) == human.argmax(1)).mean() and actual['human_accuracy'] == 39 / 40
    with pytest.raises(InputFileError, match='another order'):
        compare_cifar10h(Predictions(answers, labels[order], ''), tmp_path)


def test_ids_of_tfds_say_the_official_order(monkeypatch, tmp_path):
    from tensorflow_datasets.proto import tf_example_pb2

    from resnet_jax.data import tfds_folder

    def records(*numbers):
        examples = [tf_example_pb2.Example() for _ in numbers]
        for example, number in zip(examples, numbers, strict=True):
            example.features.feature['id'].bytes_list.value.append(b'test_%05d' % number)
        return [example.SerializeToString() for example in examples]

    shards = {'a': records(2, 0), 'b': records(3, 1)}
    monkeypatch.setattr(tfds_folder, '_describe', lambda folder, source: {'test': ('tfrecord', [('a', 2), ('b', 2)])})
    monkeypatch.setattr(tfds_folder, '_read_shard', lambda path, file_format: shards[path])
    np.testing.assert_array_equal(official_order(tmp_path, SOURCES['cifar10'], 'test'), [2, 0, 3, 1])
    shards['b'] = records(3, 3)
    with pytest.raises(InputFileError, match='no ids of cifar10'):
        official_order(tmp_path, SOURCES['cifar10'], 'test')


DAMAGE = {
    'missing': (lambda path: path.unlink(), 'is not there'),
    'cut': (lambda path: path.write_bytes(path.read_bytes()[:-99]), 'no sound .npy file'),
    'text': (lambda path: path.write_text('an error page'), 'no sound .npy file'),
    'empty': (lambda path: path.write_bytes(b''), 'no sound .npy file'),
    'objects': (lambda path: np.save(path, np.array([print], object)), 'no sound .npy file'),
    'floats': (lambda path: np.save(path, np.zeros((5 * N, 32, 32, 3))), 'holds float64'),
    'shape': (lambda path: np.save(path, np.zeros((5 * N, 3, 32, 32), np.uint8)), r'expected \[40, 32, 32, 3\]'),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_file_that_is_not_as_published_is_named(classifier, tmp_path, damage):
    write_cifar10c(tmp_path, CORRUPTIONS)
    spoil, text = DAMAGE[damage]
    spoil(tmp_path / 'snow.npy')
    with pytest.raises(InputFileError, match=text) as error:
        evaluate_cifar10c(classifier, tmp_path)
    assert 'snow.npy' in str(error.value) and '\n' not in str(error.value)


def test_other_labels_folders_and_networks_are_refused(classifier, tmp_path):
    with pytest.raises(InputFileError, match=r'no CIFAR-10\.1 in'):
        evaluate_cifar10_1(classifier, tmp_path)
    write_cifar10c(tmp_path, CORRUPTIONS)
    np.save(tmp_path / 'labels.npy', np.full(5 * N, 10))
    with pytest.raises(InputFileError, match='labels from 0 to 9'):
        evaluate_cifar10c(classifier, tmp_path)
    names = tuple(reversed(class_names('cifar10')))
    other = Classifier(classifier.model, classifier.variables, (32, 32, 3), names, (0.5,), (0.25,))
    with pytest.raises(ConfigError, match="expected one for CIFAR-10's 32 x 32 images"):
        check_cifar10(other)
