import json

import jax
import numpy as np
import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)
from tiny import Linear
from torchmetrics.functional.classification import multiclass_calibration_error

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset, Split
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.evaluate import evaluate
from resnet_jax.evaluation.metrics import calibration, describe
from resnet_jax.evaluation.predictions import Predictions, check_same_examples, load_predictions
from resnet_jax.evaluation.record import write_record


def answers(n=200, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)).astype(np.float32) * 2
    labels = np.where(rng.random(n) < 0.6, logits.argmax(1), rng.integers(0, classes, n)).astype(np.int32)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), labels


def test_figures_are_scikit_learns():
    log_probabilities, labels = answers()
    actual = describe(log_probabilities, labels)
    assert actual['accuracy'] == (log_probabilities.argmax(1) == labels).mean()
    assert actual['top5_accuracy'] == pytest.approx(top_k_accuracy_score(labels, log_probabilities, k=5))
    assert actual['loss'] == pytest.approx(-log_probabilities[np.arange(200), labels].mean(), rel=1e-6)
    expected = precision_score(labels, log_probabilities.argmax(1), average=None)
    np.testing.assert_allclose(actual['per_class_precision'], expected)
    assert actual['confusion'].sum() == actual['count'] == 200


def test_calibration_and_balanced_accuracy_are_those_of_torchmetrics_and_scikit_learn():
    log_probabilities, labels = answers(n=500)
    actual = describe(log_probabilities, labels)
    probabilities, targets = torch.tensor(np.exp(log_probabilities)), torch.tensor(labels)
    for name, norm in (('ece', 'l1'), ('mce', 'max')):
        expected = multiclass_calibration_error(probabilities, targets, num_classes=7, n_bins=15, norm=norm)
        assert actual['calibration'][name] == pytest.approx(expected.item(), abs=1e-6)
    predicted = log_probabilities.argmax(1)
    assert actual['balanced_accuracy'] == pytest.approx(balanced_accuracy_score(labels, predicted))
    np.testing.assert_allclose(actual['per_class_accuracy'], recall_score(labels, predicted, average=None))
    np.testing.assert_array_equal(actual['confusion'], confusion_matrix(labels, predicted))
    shares = np.exp(log_probabilities.astype(float))
    expected = log_loss(labels, shares / shares.sum(1, keepdims=True), labels=range(7))
    assert actual['loss'] == pytest.approx(expected, rel=1e-5)


def test_equal_probabilities_count_as_argmax_counts_them():
    actual = describe(np.log(np.full((6, 6), 1 / 6)), np.arange(6))
    assert actual['accuracy'] == 1 / 6 and actual['top5_accuracy'] == 5 / 6


def test_five_classes_have_no_top_5():
    assert describe(*answers(20, 5))['top5_accuracy'] is None


def test_calibration_by_hand():
    """Two of 15 bins: confidences 0.36, 0.38 up to 6/15 (one right), and 0.61, 0.63, 0.65 up to 10/15 (two right)."""
    confidence = np.array([0.36, 0.38, 0.61, 0.63, 0.65])
    rest = (1 - confidence) / 2
    log_probabilities = np.log(np.stack([confidence, rest, rest], axis=1) + 1e-300)
    actual = calibration(log_probabilities, np.array([0, 1, 0, 2, 0]))
    first, second = (bucket for bucket in actual['bins'] if bucket['count'])
    assert (first['high'], second['high']) == (pytest.approx(6 / 15), pytest.approx(10 / 15))
    assert (first['count'], second['count']) == (2, 3)
    assert first['confidence'] == pytest.approx(0.37) and first['accuracy'] == 0.5
    assert second['confidence'] == pytest.approx(0.63) and second['accuracy'] == pytest.approx(2 / 3)
    assert actual['ece'] == pytest.approx((2 * 0.13 + 3 * (2 / 3 - 0.63)) / 5)
    assert actual['mce'] == pytest.approx(0.13) and actual['confidence'] == pytest.approx(0.526)


def test_an_empty_bin_has_no_mean_and_json_takes_it():
    actual = calibration(np.log(np.array([[0.99, 0.01]])), np.array([0]))
    assert actual['bins'][3] == {'low': 0.2, 'high': pytest.approx(4 / 15), 'count': 0, 'confidence': None, 'accuracy': None}
    json.loads(json.dumps(actual), parse_constant=pytest.fail)


def predictions(seed=0, fingerprint='stripes'):
    return Predictions(*answers(seed=seed), fingerprint, 'mirror')


def test_predictions_are_read_back(tmp_path):
    predictions().save(tmp_path)
    actual = load_predictions(tmp_path)
    np.testing.assert_array_equal(actual.log_probabilities, predictions().log_probabilities)
    np.testing.assert_array_equal(actual.labels, predictions().labels)
    assert actual.fingerprint == 'stripes' and actual.tta == actual.describe()['tta'] == 'mirror'
    assert actual.correct.mean() == actual.describe()['accuracy']
    assert [path.name for path in tmp_path.iterdir()] == ['predictions.npz']


@pytest.mark.parametrize('damage', ['missing', 'cut', 'text', 'pickle', 'labels', 'nan', 'empty'])
def test_a_file_that_is_none_is_named(tmp_path, damage):
    path = predictions().save(tmp_path)
    good, n = answers()[0], 200
    if damage == 'missing':
        path.unlink()
    elif damage == 'cut':
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == 'text':
        path.write_text('no archive')
    else:
        values = {
            'pickle': (np.array([print], object), np.zeros(n, int)),
            'labels': (good, np.full(n, 7)),
            'nan': (good * np.nan, np.zeros(n, int)),
            'empty': (good[:0], np.zeros(0, int)),
        }[damage]
        np.savez(path, log_probabilities=values[0], labels=values[1], fingerprint=np.array('x'))
    with pytest.raises(InputFileError, match='predictions') as error:
        load_predictions(tmp_path)
    assert '\n' not in str(error.value)


def test_other_images_are_not_compared(monkeypatch):
    split = Split(np.zeros((200, 2, 2, 1), np.uint8), predictions().labels)
    dataset = Dataset('stripes', split, split, tuple('abcdefg'), (0.5,), (0.5,), 'stripes')
    variables = Linear(7).init(jax.random.key(0), np.zeros((1, 2, 2, 1), np.float32), train=False)
    classifier = Classifier(Linear(7), variables, (2, 2, 1), tuple('abcdefg'), (0.5,), (0.5,))
    monkeypatch.setattr(Classifier, 'log_probabilities', lambda *_: pytest.fail('evaluated before it is refused'))
    check_same_examples(predictions(), dataset)
    for other in (predictions(fingerprint='spots'), predictions(seed=1)):
        with pytest.raises(ConfigError, match='same test set'):
            check_same_examples(other, dataset)
        with pytest.raises(ConfigError, match='same test set'):
            evaluate(classifier, dataset, other=other)


def test_the_record_of_thousands_of_classes_is_small_and_has_their_confusion(tmp_path):
    classes, n = 3000, 40
    labels = np.arange(n, dtype=np.int32) * 70
    logits = np.random.default_rng(0).normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n - 1), labels[:-1]] += 20
    logits[-1, 5] += 20
    actual = Predictions(np.asarray(jax.nn.log_softmax(logits)), labels, 'many')
    split = Split(np.zeros((n, 2, 2, 1), np.uint8), labels)
    names = tuple(map(str, range(classes)))
    dataset = Dataset('many', split, split, names, (0.5,), (0.5,), 'many')
    variables = Linear(classes).init(jax.random.key(0), np.zeros((1, 2, 2, 1), np.float32), train=False)
    classifier = Classifier(Linear(classes), variables, (2, 2, 1), names, (0.5,), (0.5,))
    write_record(tmp_path, actual, dataset, classifier)
    assert (tmp_path / 'evaluation.json').stat().st_size < 1_000_000  # 3,000 rows take 60 MB
    entries = [[i * 70, i * 70, 1] for i in range(n - 1)] + [[(n - 1) * 70, 5, 1]]
    assert json.loads((tmp_path / 'evaluation.json').read_text())['confusion'] == entries
    metrics, more = evaluate(classifier, dataset, other=actual)
    assert sum(count for _, _, count in metrics['confusion']) == more['agreement']['count'] == n


def test_record_keeps_the_most_confidently_wrong(tmp_path):
    actual = predictions()
    image = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    split = Split(image, actual.labels)
    dataset = Dataset('stripes', split, split, tuple('abcdefg'), (0.5,), (0.5,), 'stripes')
    variables = Linear(7).init(jax.random.key(0), np.zeros((1, 2, 2, 1), np.float32), train=False)
    write_record(tmp_path, actual, dataset, Classifier(Linear(7), variables, (2, 2, 1), tuple('abcdefg'), (0.5,), (0.5,)))
    record = json.loads((tmp_path / 'evaluation.json').read_text(), parse_constant=pytest.fail)
    wrong = record['wrong']
    assert len(wrong) == 24 and record['class_names'] == list('abcdefg')
    assert [one['confidence'] for one in wrong] == sorted((one['confidence'] for one in wrong), reverse=True)
    errors = np.flatnonzero(~actual.correct)
    assert wrong[0]['confidence'] == pytest.approx(np.exp(actual.log_probabilities.max(1)[errors].max()), rel=1e-5)
    assert all(one['label'] != one['predicted'] and one['label_probability'] <= one['confidence'] for one in wrong)
    with np.load(tmp_path / 'samples.npz', allow_pickle=False) as samples:
        np.testing.assert_array_equal(samples['wrong'][:, 0, 0, 0], [one['index'] for one in wrong])
        assert samples.files == ['wrong']  # a linear network has no maps, no filters and no features of its own
