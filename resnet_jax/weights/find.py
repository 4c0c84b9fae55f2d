"""Weights by path or name: a file, an exported folder, a repository of the Hugging Face Hub or a published name."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from resnet_jax.data.class_names import class_names
from resnet_jax.typing import JsonDict, Variables
from resnet_jax.weights.hub import FILE, fetch, fetch_repository, is_repository
from resnet_jax.weights.load import load_variables
from resnet_jax.weights.match import Shape
from resnet_jax.weights.published import find_weights, is_name

SUFFIXES = ('.safetensors', '.pth', '.pt', '.th')


class FoundWeights(NamedTuple):
    """Weights and their location: see `load_variables`; the facts include those about published weights."""

    file: Path
    model: nn.Module
    variables: Variables
    facts: JsonDict


def is_run(name: str) -> bool:
    """Returns whether a path or name can only be a run folder. An existing path is always treated as a path."""
    path = Path(name)
    if is_repository(name) or (is_name(name) and not path.exists()) or _is_exported(path):
        return False
    return path.is_dir() or (path.suffix not in SUFFIXES and not path.exists())


def load_weights(
    name: str,
    model: str | None,
    *,
    image_shape: Shape | None,
    num_classes: int | None,
    ema: bool,
    **model_kwargs: Any,
) -> FoundWeights:
    """Loads weights by path or name, unless it `is_run`; for arguments and errors see `Classifier.load`."""
    path, published = Path(name), {}
    if is_repository(name):
        path = fetch_repository(name)
    elif is_name(name) and not path.exists():
        entry = find_weights(name)
        model, model_kwargs = entry.checked(model), {**entry.model_kwargs, **model_kwargs}
        image_shape, num_classes = image_shape or entry.image_shape, num_classes or entry.num_classes
        path, published = fetch(entry), {**entry.preprocessing, 'class_names': class_names(entry.dataset)}
    elif _is_exported(path):
        path /= FILE
    built, variables, facts = load_variables(
        path, model, image_shape=image_shape, num_classes=num_classes, ema=ema, **model_kwargs
    )
    return FoundWeights(path, built, variables, {**facts, **published})


def _is_exported(path: Path) -> bool:
    return (path / FILE).is_file() and not (path / 'checkpoints').is_dir()
