import numpy as np
import pytest

from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.evaluation.text import format_evaluation
from resnet_jax.significance import compare_answers


@pytest.mark.parametrize('tta', ['none', 'mirror'])
def test_averaged_views_are_told_of_either_side_of_a_comparison(tta):
    answers = np.log(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32))
    actual = Predictions(answers, np.array([0, 1]), 'x', tta)
    compared = compare_answers(actual.correct, actual.correct)
    agreement = {'with': 'runs/b', 'with_tta': tta, 'same_class': 2, **compared}
    lines = format_evaluation('resnet8', ('cat', 'dog'), actual.describe(), {'agreement': agreement}).splitlines()
    averaged = '' if tta == 'none' else ', logits averaged over views (mirror)'
    assert lines[0] == f'resnet8 test set, 2 images{averaged}'
    assert lines[1] == 'accuracy  50.00 %'
    assert f'compared with runs/b{averaged}, of 2 images' in lines and '  given the same class by both 2' in lines


def test_configs_that_differ_are_named():
    answers = np.log(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32))
    actual = Predictions(answers, np.array([0, 1]), 'x', 'none')
    agreement = {'with': 'runs/b', 'with_tta': 'none', 'same_class': 2, **compare_answers(actual.correct, actual.correct)}
    text = format_evaluation(
        'resnet8', ('cat', 'dog'), actual.describe(), {'agreement': {**agreement, 'configs': {'seed': [1, 0]}}}
    )
    assert 'configs differ: seed: 1 -> 0' in text and 'The verdict (p < 0.05) is on this pair alone' in text


def test_where_the_classes_differ_in_size_the_balanced_accuracy_and_the_sizes_are_told():
    """Right: 3 of 3 cats, 0 of 1 dog."""
    actual = Predictions(np.log(np.array([[0.9, 0.1]] * 4, np.float32)), np.array([0, 0, 0, 1]), 'x')
    lines = format_evaluation('resnet8', ('cat', 'dog'), actual.describe(), {}).splitlines()
    assert lines[1] == 'accuracy  75.00 %'
    table = ['  cat  100.00 % of 3', '  dog    0.00 % of 1', 'balanced accuracy 50.00 % (mean over the classes)']
    assert lines[4:7] == table
    even = Predictions(actual.log_probabilities, np.array([0, 0, 1, 1]), 'x')
    text = format_evaluation('resnet8', ('cat', 'dog'), even.describe(), {})
    assert 'balanced' not in text and ' of ' not in text
