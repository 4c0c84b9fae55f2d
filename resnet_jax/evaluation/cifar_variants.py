"""Published test sets for CIFAR-10 networks, from their authors' files: CIFAR-10-C, CIFAR-10.1 and CIFAR-10H."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.config import TrainConfig
from resnet_jax.data.class_names import class_names
from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.typing import JsonDict

logger = logging.getLogger(__name__)

EXTRA_CORRUPTIONS = ('gaussian_blur', 'saturate', 'spatter', 'speckle_noise')
VERSIONS = ('v6', 'v4')  # versions of CIFAR-10.1: 2,000 images with classes of equal size, and 2,021 images
_IMAGE = (32, 32, 3)


def check_cifar10(classifier: Classifier) -> None:
    """Checks that a classifier is for CIFAR-10.

    Raises:
      ConfigError: the classifier has other classes, or takes other images.
    """
    names = classifier.class_names
    if names not in (class_names('cifar10'), tuple(map(str, range(10)))) or tuple(classifier.image_shape) != _IMAGE:
        raise ConfigError(
            f'the network takes images of {list(classifier.image_shape)} and has the classes {", ".join(names)[:60]}; expected '
            "one for CIFAR-10's 32 x 32 images and its ten classes"
        )


def evaluate_cifar10c(classifier: Classifier, folder: str | Path, batch_size: int = TrainConfig.eval_batch_size) -> JsonDict:
    """Evaluates on CIFAR-10-C (Hendrycks and Dietterich, arXiv:1903.12261): CORRUPTION.npy and labels.npy in one folder.

    Each file has the test set at severity 1, then at severity 2, and so on. 'accuracy', the mean over 15 corruptions and 5
    severities, is comparable with RobustBench's accuracies (arXiv:2010.09670) for corruptions.

    Returns:
      'errors': {corruption: [error at severity 1, ..., 5]}, as shares of the images, including the four extra corruptions if
      their files exist; 'corruption_errors': {corruption: mean of its errors}; 'mean_corruption_error' and 'accuracy' over the
      15; 'mean_corruption_error_19' if all four extra files exist, otherwise None; 'count': number of images at one severity;
      'tta'.

    Raises:
      ConfigError: the network is not for CIFAR-10.
      InputFileError: a file is missing, or differs in form from the published one.
    """
    check_cifar10(classifier)
    folder = Path(folder)
    labels = read_labels(folder / 'labels.npy')
    names = [*CORRUPTIONS, *(name for name in EXTRA_CORRUPTIONS if (folder / f'{name}.npy').exists())]
    images = {name: read_images(folder / f'{name}.npy', len(labels)) for name in names}  # reads all files first
    count, rest = divmod(len(labels), len(SEVERITIES))
    if rest:
        raise InputFileError(f'{folder / "labels.npy"} has {len(labels)} labels; expected five times the test set, as 50,000')
    errors: dict[str, list[float]] = {}
    for done, name in enumerate(names):
        logger.info('CIFAR-10-C: %s, %d of %d', name, done + 1, len(names))
        answers = classifier.log_probabilities(images[name], batch_size).argmax(axis=1)
        errors[name] = (answers != labels).reshape(len(SEVERITIES), count).mean(axis=1).tolist()
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    mean = float(np.mean([means[name] for name in CORRUPTIONS]))
    return {
        'errors': errors,
        'corruption_errors': means,
        'mean_corruption_error': mean,
        'accuracy': 1 - mean,
        'mean_corruption_error_19': float(np.mean(list(means.values()))) if len(names) == 19 else None,
        'count': count,
        'tta': classifier.tta,
    }


def evaluate_cifar10_1(
    classifier: Classifier, folder: str | Path, batch_size: int = TrainConfig.eval_batch_size
) -> dict[str, JsonDict]:
    """Evaluates on CIFAR-10.1 (Recht et al., arXiv:1806.00451): cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy, or v4.

    Returns:
      {'v6' or 'v4': `Predictions.describe`, without the confusion matrix} for the versions whose files are in the folder.

    Raises:
      ConfigError: the network is not for CIFAR-10.
      InputFileError: no version is in the folder, or a file differs in form from the published one.
    """
    check_cifar10(classifier)
    folder = Path(folder)
    results = {}
    for version in VERSIONS:
        data, labels = (folder / f'cifar10.1_{version}_{kind}.npy' for kind in ('data', 'labels'))
        if data.exists() or labels.exists():
            label = read_labels(labels)
            answers = classifier.log_probabilities(read_images(data, len(label)), batch_size)
            results[version] = Predictions(answers, label, '', classifier.tta).describe()
            del results[version]['confusion']
    if not results:
        raise InputFileError(f'no CIFAR-10.1 in {folder}: expected cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy')
    return results


def compare_cifar10h(predictions: Predictions, folder: str | Path, order: np.ndarray | None = None) -> JsonDict:
    """Compares predictions for CIFAR-10's test set with answers of about 50 people: CIFAR-10H (Peterson et al., ICCV 2019).

    Args:
      predictions: the predictions for all 10,000 test images.
      folder: has cifar10h-counts.npy, int `[10000, 10]`, or cifar10h-probs.npy, float `[10000, 10]`, in the official order.
      order: int `[n]`: the official position of each predicted image; None if the predictions are in the official order.

    Returns:
      'cross_entropy': mean of -sum_c human_c * log(network_c), in nats; 'kl_divergence': the cross entropy minus the entropy of
      the people's answers, 0 for a network that is as uncertain as they are; 'human_entropy'; 'plurality_accuracy': the share
      of images for which the network's class is the class that most people chose; 'human_accuracy': the share of images for
      which the class that most people chose is the label; 'count'; 'tta'.

    Raises:
      InputFileError: a file is missing, differs in form from the published one, or is in another order than the images.
    """
    folder = Path(folder)
    counts = folder / 'cifar10h-counts.npy'
    path = counts if counts.exists() else folder / 'cifar10h-probs.npy'
    given = np.asarray(_read(path, 'iuf', predictions.log_probabilities.shape), np.float64)
    totals = given.sum(axis=1, keepdims=True)
    if not np.isfinite(given).all() or (given < 0).any() or not (totals > 0).all():
        raise InputFileError(f'{path} holds no distributions; expected counts or probabilities of ten classes for each image')
    human = (given / totals)[slice(None) if order is None else order]
    agreed = float((human.argmax(axis=1) == predictions.labels).mean())
    if agreed < 0.9:  # 99 % for the published answers
        raise InputFileError(
            f'most people in {path} name the label of {100 * agreed:.0f} % of the images, and of CIFAR-10H 99 %: it is in '
            'another order than the test set, or of other images'
        )
    answers = predictions.log_probabilities.astype(np.float64)
    cross_entropy = float(-(human * answers).sum(axis=1).mean())
    entropy = float(-(human * np.log(np.where(human > 0, human, 1))).sum(axis=1).mean())
    return {
        'cross_entropy': cross_entropy,
        'kl_divergence': cross_entropy - entropy,
        'human_entropy': entropy,
        'plurality_accuracy': float((answers.argmax(axis=1) == human.argmax(axis=1)).mean()),
        'human_accuracy': agreed,
        'count': len(human),
        'tta': predictions.tta,
    }


def read_labels(path: Path) -> np.ndarray:
    """Returns the labels of an .npy file, int32 `[n]`.

    Raises:
      InputFileError: the file is missing, or does not contain labels from 0 to 9.
    """
    labels = np.asarray(_read(path, 'iu', (None,)))
    if not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise InputFileError(f'{path} does not hold labels from 0 to 9; get it again')
    return labels.astype(np.int32)


def read_images(path: Path, count: int) -> np.ndarray:
    """Returns the images of an .npy file, uint8 `[count, 32, 32, 3]`, memory-mapped.

    Raises:
      InputFileError: the file is missing, or does not contain an array of this form.
    """
    images = _read(path, 'u', (count, *_IMAGE))
    if images.dtype != np.uint8:
        raise InputFileError(f'{path} holds {images.dtype}; expected uint8: get it again')
    return images


def _read(path: Path, kinds: str, shape: Sequence[int | None]) -> np.ndarray:
    try:
        if path.exists() and not path.is_file():
            raise ValueError('it is not a regular file')
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError('it is an archive')
    except FileNotFoundError:
        raise InputFileError(f'{path} is not there; expected the files as their authors publish them') from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputFileError(f'{path} is no sound .npy file ({one_line(error)[:200]}); get it again') from None
    wanted = [length if size is None else size for length, size in zip(array.shape, shape, strict=False)]
    if array.ndim != len(shape) or list(array.shape) != wanted or array.dtype.kind not in kinds:
        expected = ', '.join('n' if size is None else str(size) for size in shape)
        raise InputFileError(f'{path} holds {array.dtype}{list(array.shape)}; expected [{expected}]: get it again')
    return array
