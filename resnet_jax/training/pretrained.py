"""The trained weights that a run may start from: a run folder, a file, or a network in memory."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.config import TrainConfig
from resnet_jax.data import DatasetInfo
from resnet_jax.errors import InputFileError
from resnet_jax.runs.checksums import CHECKSUMS
from resnet_jax.runtime.files import sha256_of
from resnet_jax.typing import Json
from resnet_jax.weights.files import read_state_dicts
from resnet_jax.weights.hub import is_repository
from resnet_jax.weights.load import load_variables
from resnet_jax.weights.match import Shape, model_shapes
from resnet_jax.weights.names import flatten
from resnet_jax.weights.parts import head_names, select
from resnet_jax.weights.published import is_name


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained weights and the known facts about them.

    Attributes:
      source: the user's argument, for messages.
      file: the file, or the checkpoint of a run.
      sha256: the SHA-256 of the file, of the SHA256SUMS of a checkpoint, or of the arrays of a network in memory.
      arrays: float32 arrays by name with collection, such as 'params/conv1/kernel'.
      model, model_kwargs: the arguments of `create_model`.
      num_classes, class_names: the classes of the head; class_names is None if unknown.
      image_shape: (height, width, channels) of the training images; None if unknown.
      mean, std: mean and standard deviation of pixels scaled to [0, 1]; None if unknown.
    """

    source: str
    file: str
    sha256: str
    arrays: Mapping[str, np.ndarray]
    model: str
    model_kwargs: Json
    num_classes: int
    class_names: tuple[str, ...] | None
    image_shape: Shape | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def check_exists(init_from: str) -> None:
    """Checks that `init_from` is a folder, a file or a name of weights.

    Raises:
      InputFileError: it is none of these.
    """
    if not (Path(init_from).exists() or is_name(init_from) or is_repository(init_from)):
        raise InputFileError(
            f'init_from is {init_from!r}, and there is no such folder or file; expected a run folder, weights as .pth, .pt, '
            '.th or .safetensors, or a name of published weights',
            topic='weights',
        )


def read_weights(config: TrainConfig, model: nn.Module, info: DatasetInfo) -> Weights:
    """Reads the weights `config.init_from` for `model`, the network of the config.

    Raises:
      InputFileError: the weights are missing, damaged or of another model.
      ConfigError: a pattern matches nothing, or an argument does not fit the file.
    """
    check_exists(config.init_from)
    path = Path(config.init_from)
    if not path.is_file():
        return of_classifier(Classifier.load(config.init_from, ema=config.init_ema), config)
    if read_state_dicts(path)[1]:  # the file names its model
        _, variables, facts = load_variables(path, ema=config.init_ema)
    else:
        only = None
        if config.init_only or config.init_head == 'new':
            only = wanted_names(config, model, info.image_shape, head_names(model, info.image_shape))
        _, variables, facts = load_variables(
            path, config.model, ema=config.init_ema, only=only, any_channels=True, **config.model_kwargs
        )
    return Weights(
        source=config.init_from,
        file=str(path),
        sha256=sha256_of(path),
        arrays=flatten(variables),
        model=facts['model'],
        model_kwargs=facts['model_kwargs'],
        num_classes=facts['num_classes'],
        class_names=tuple(facts['class_names']) if 'class_names' in facts else None,
        image_shape=tuple(facts['image_shape']) if 'class_names' in facts else None,
        mean=tuple(facts['mean']) if 'mean' in facts else None,
        std=tuple(facts['std']) if 'std' in facts else None,
    )


def of_classifier(classifier: Classifier, config: TrainConfig) -> Weights:
    """Returns a classifier's weights, with the SHA-256 of its file, or of its arrays if there is no file."""
    arrays, origin = flatten(classifier.variables), classifier.origin
    file = Path(origin.path, 'checkpoints', str(origin.step)) if origin.step is not None else Path(origin.path)
    if origin.config and (file / CHECKSUMS).is_file():
        digest = sha256_of(file / CHECKSUMS)
    elif origin.file and Path(origin.file).is_file():
        file, digest = Path(origin.file), sha256_of(Path(origin.file))
    else:
        file, hashed = Path(origin.path or '.'), hashlib.sha256()
        for name, array in sorted(arrays.items()):
            hashed.update(f'{name} {array.dtype} {array.shape}'.encode() + np.ascontiguousarray(array).tobytes())
        digest = hashed.hexdigest()
    return Weights(
        source=config.init_from,
        file=str(file) if origin.path else 'a network in memory',
        sha256=digest,
        arrays=arrays,
        model=origin.model,
        model_kwargs=origin.model_kwargs,
        num_classes=len(classifier.class_names),
        class_names=classifier.class_names,
        image_shape=classifier.image_shape,
        mean=classifier.mean,
        std=classifier.std,
    )


def wanted_names(config: TrainConfig, model: nn.Module, image_shape: Shape, head: frozenset[str]) -> frozenset[str]:
    """Returns the names of the arrays that `init_only` and `init_head` of the config select."""
    shapes = model_shapes(model, image_shape)
    wanted = select(config.init_only, shapes, head, 'init_only') if config.init_only else frozenset(shapes)
    return wanted - head if config.init_head == 'new' else wanted
