import jax
import numpy as np
import pytest
import tiny
from sklearn.decomposition import PCA

from resnet_jax import Classifier, create_model
from resnet_jax.evaluation.embedding import principal_components
from resnet_jax.evaluation.examples import choose_examples
from resnet_jax.evaluation.explanations import compute_features, first_filters, grad_cam
from resnet_jax.evaluation.predictions import predict_split

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.mark.parametrize('shape', [(50, 7), (9, 40), (5, 1), (2, 3)])
def test_principal_components_are_scikit_learns(shape):
    features = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1) + 3
    reference = PCA(min(2, *shape), svd_solver='full')
    expected = reference.fit_transform(features)
    projected, share = principal_components(features)
    assert projected.shape == (shape[0], 2) and projected.dtype == np.float32
    assert share == pytest.approx(reference.explained_variance_ratio_.sum())
    for column in range(expected.shape[1]):
        sign = np.sign(expected[np.abs(expected[:, column]).argmax(), column])  # which PCA leaves open
        np.testing.assert_allclose(projected[:, column], sign * expected[:, column], atol=1e-4)
    np.testing.assert_array_equal(projected[:, expected.shape[1] :], 0)


@pytest.fixture(scope='module')
def trained():
    dataset = tiny.dataset(test=40)
    model = create_model('resnet8', num_classes=3, stage_sizes=(1,), num_filters=4)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)
    classifier = Classifier(model, variables, (8, 8, 1), dataset.class_names, dataset.mean, dataset.std)
    return classifier, dataset, predict_split(classifier, dataset, 16)


@pytest.mark.slow
def test_examples_of_a_network(trained):
    classifier, dataset, predictions = trained
    arrays, facts = choose_examples(classifier, dataset, predictions)
    predicted, labels = predictions.log_probabilities.argmax(1), dataset.test.label
    assert len(facts['wrong']) == 24 and len(arrays['wrong_maps']) == 24  # an untrained network
    maps = grad_cam(classifier, arrays['wrong'], np.array([one['predicted'] for one in facts['wrong']]))
    np.testing.assert_allclose(arrays['wrong_maps'] / 255, maps, atol=0.003)
    np.testing.assert_array_equal(np.moveaxis(arrays['filters'], -1, 0), first_filters(classifier))
    assert arrays['map'].shape == (40, 2) and 0 < facts['map_variance'] <= 1
    np.testing.assert_array_equal(arrays['map_labels'], labels)

    features = compute_features(classifier, dataset.test.image)
    assert facts['pairs'] and len(arrays['pairs']) == len(facts['pairs'])
    for pair, images in zip(facts['pairs'], arrays['pairs'], strict=True):
        label, other, index, like = (pair[name] for name in ('label', 'predicted', 'index', 'like'))
        assert pair['count'] == ((labels == label) & (predicted == other)).sum() > 0
        assert (labels[index], predicted[index]) == (label, other) and labels[like] == predicted[like] == other
        np.testing.assert_array_equal(images, dataset.test.image[[index, like]])
        distances = ((features - features[index]) ** 2).sum(1)
        assert distances[like] == pytest.approx(distances[(labels == other) & (predicted == other)].min(), rel=1e-4)


def test_of_a_network_without_mistakes_nothing_is_shown_of_them(trained):
    classifier, dataset, predictions = trained
    right = np.log(np.full((40, 3), 0.1) + 0.7 * np.eye(3)[dataset.test.label]).astype(np.float32)
    perfect = type(predictions)(right, predictions.labels, predictions.fingerprint)
    arrays, facts = choose_examples(classifier, dataset, perfect)
    assert arrays['wrong'].shape == (0, 8, 8, 1) and arrays['wrong_maps'].shape == (0, 8, 8)
    assert arrays['pairs'].shape == (0, 2, 8, 8, 1) and facts['pairs'] == facts['wrong'] == []
