"""Chooses single test images for the report: mistakes and their Grad-CAM, confused classes, a map of the test set."""

import contextlib
import math

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.data import Dataset
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.embedding import principal_components
from resnet_jax.evaluation.explanations import compute_features, first_filters, grad_cam
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.typing import JsonDict

_WRONG, _PAIRS = 24, 8
_ON_THE_MAP = 2000  # number of test images on the map; more would only cover each other
_MANY_CLASSES, _SHOWN_OF_MANY = 20, 10


def choose_examples(
    classifier: Classifier, dataset: Dataset, predictions: Predictions
) -> tuple[dict[str, np.ndarray], JsonDict]:
    """Returns the arrays and facts about single images that the report shows.

    Returns:
      Arrays; if they do not exist for the network, they are missing:
        'wrong': the images of the most confident mistakes, uint8 `[k, height, width, channels]`.
        'wrong_maps': Grad-CAM of the predicted classes, uint8 `[k, height, width]`.
        'pairs': for each pair of classes that are often confused, a mistake and the correctly classified image of the
          predicted class that has the nearest features, uint8 `[pairs, 2, height, width, channels]`.
        'map': images by the principal components of their features, float32 `[n, 2]`; 'map_labels': int32 `[n]`.
        'filters': the kernel of the first convolution, float32 `[height, width, in, out]`.

      Facts, as JSON: 'wrong': for each, 'index', 'label', 'predicted', 'confidence', 'label_probability'; 'pairs': for each,
      'label', 'predicted', 'count', 'index' and 'like' (the index of the second image); 'map_variance': the share of the
      variance that the map shows.
    """
    answers, labels, image = predictions.log_probabilities, predictions.labels, dataset.test.image
    predicted, confidence = answers.argmax(axis=1), answers.max(axis=1)
    mistakes = np.flatnonzero(predicted != labels)
    mistakes = mistakes[np.argsort(-confidence[mistakes], kind='stable')]
    wrong = mistakes[:_WRONG]
    arrays: dict[str, np.ndarray] = {'wrong': image[wrong]}
    facts: JsonDict = {
        'wrong': [
            {
                'index': int(i),
                'label': int(labels[i]),
                'predicted': int(predicted[i]),
                'confidence': math.exp(confidence[i]),
                'label_probability': math.exp(answers[i, labels[i]]),
            }
            for i in wrong
        ]
    }
    if (filters := first_filters(classifier)) is not None:
        arrays['filters'] = np.moveaxis(filters, 0, -1)
    with contextlib.suppress(ConfigError):  # a network without convolutions
        maps = grad_cam(classifier, arrays['wrong'], predicted[wrong])
        arrays['wrong_maps'] = np.rint(255 * maps).astype(np.uint8)
    with contextlib.suppress(ConfigError):  # a user's network that does not sow features
        _add_features(classifier, dataset, predicted, mistakes, arrays, facts)
    return arrays, facts


def _add_features(
    classifier: Classifier,
    dataset: Dataset,
    predicted: np.ndarray,
    mistakes: np.ndarray,
    arrays: dict[str, np.ndarray],
    facts: JsonDict,
) -> None:
    """Adds the pairs and the map, which need the features of some images."""
    labels = dataset.test.label
    shown = np.flatnonzero(labels < _SHOWN_OF_MANY) if dataset.num_classes > _MANY_CLASSES else np.arange(len(labels))
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(_ON_THE_MAP, len(shown))).astype(int))]
    named = labels[mistakes].astype(int) * dataset.num_classes + predicted[mistakes]
    pairs, first, counts = np.unique(named, return_index=True, return_counts=True)
    often = np.argsort(-counts, kind='stable')[:_PAIRS]
    asked = mistakes[first[often]]  # the most confident mistake of each pair
    features = compute_features(classifier, dataset.test.select(np.concatenate([shown, asked])).image)
    known, right = features[: len(shown)], predicted[shown] == labels[shown]
    facts['pairs'], chosen = [], []
    for pair, index, count, feature in zip(pairs[often], asked, counts[often], features[len(shown) :], strict=True):
        label, other = divmod(int(pair), dataset.num_classes)
        candidates = np.flatnonzero(right & (labels[shown] == other))
        if len(candidates):
            like = shown[candidates[((known[candidates] - feature) ** 2).sum(axis=1).argmin()]]
            facts['pairs'].append(
                {'label': label, 'predicted': other, 'count': int(count), 'index': int(index), 'like': int(like)}
            )
            chosen += [index, like]
    arrays['pairs'] = dataset.test.image[np.array(chosen, int)].reshape(-1, 2, *dataset.image_shape)
    if len(shown) > 1:
        arrays['map'], facts['map_variance'] = principal_components(known)
        arrays['map_labels'] = labels[shown]
