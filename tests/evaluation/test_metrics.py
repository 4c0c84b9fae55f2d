import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from resnet_jax.evaluation.metrics import summarize


def test_by_hand():
    confusion = np.array([[8, 1, 1], [2, 3, 0], [0, 0, 5]])
    metrics = summarize(30.0, confusion)
    assert metrics == {
        'loss': 1.5,
        'accuracy': 0.8,
        'balanced_accuracy': pytest.approx(0.8),
        'count': 20,
        'per_class_accuracy': [0.8, 0.6, 1.0],
        'per_class_count': [10, 5, 5],
    }


def test_balanced_accuracy_as_scikit_learn():
    rng = np.random.default_rng(0)
    for classes in (2, 5):
        labels = rng.choice(classes, 200, p=rng.dirichlet([0.5] * classes))
        predictions = np.where(rng.random(200) < 0.6, labels, rng.choice(labels, 200))
        confusion = np.zeros((classes + 1, classes + 1), int)  # of the last class there is no example
        np.add.at(confusion, (labels, predictions), 1)
        expected = balanced_accuracy_score(labels, predictions)
        assert summarize(1.0, confusion)['balanced_accuracy'] == pytest.approx(expected, abs=1e-12)


def test_types_that_json_takes():
    metrics = summarize(np.float32(3.0), np.eye(3, dtype=np.int32))
    assert json.loads(json.dumps(metrics)) == metrics
    assert type(metrics['loss']) is float and type(metrics['accuracy']) is float and type(metrics['count']) is int


def test_a_class_without_examples_has_no_accuracy():
    metrics = summarize(1.0, np.array([[1, 0, 1], [0, 0, 0], [0, 2, 0]]))
    assert metrics['per_class_accuracy'] == [0.5, None, 0.0]
    assert metrics['accuracy'] == 0.25
    json.loads(json.dumps(metrics), parse_constant=pytest.fail)  # no NaN


def test_predictions_are_not_mistaken_for_labels():
    """Rows are labels: class 0 is recognised always, class 1 never."""
    assert summarize(1.0, np.array([[3, 0], [1, 0]]))['per_class_accuracy'] == [1.0, 0.0]
