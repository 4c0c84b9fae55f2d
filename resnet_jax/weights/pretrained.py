"""`create_model`: a network by name and, with `weights`, its variables."""

from pathlib import Path
from typing import Any, overload

import flax.linen as nn

from resnet_jax import models
from resnet_jax.typing import JsonDict
from resnet_jax.weights.hub import fetch, fetch_repository, is_repository
from resnet_jax.weights.load import load_variables
from resnet_jax.weights.published import find_weights, is_name


@overload
def create_model(name: str, num_classes: int | None = None, *, weights: None = None, **kwargs: Any) -> nn.Module: ...


@overload
def create_model(
    name: str, num_classes: int | None = None, *, weights: str | Path, **kwargs: Any
) -> tuple[nn.Module, JsonDict]: ...


def create_model(
    name: str, num_classes: int | None = None, *, weights: str | Path | None = None, **kwargs: Any
) -> nn.Module | tuple[nn.Module, JsonDict]:
    """Returns the module called `name` (`models.create_model`); with `weights`, the module and its variables.

    A Flax module does not contain its parameters, so the variables are returned separately: {'params', 'batch_stats'}, nested
    dicts of float32 NumPy arrays, for `model.apply(variables, images, train=False)`. The images must be normalised as in the
    training of the weights: `load(weights)` returns a `Classifier`, which also has the preprocessing and the class names.

    Args:
      name: one of `available_models()`.
      num_classes: number of logits; by default 10, or the number of the weights.
      weights: a name of `available_weights()`, 'hf://OWNER/REPOSITORY' or a file: see `Classifier.load`.
      **kwargs: other attributes of the module's class; published weights set theirs (stem, shortcut) themselves.

    Raises:
      ConfigError: a name or a keyword is unknown, a value is out of range, or the weights are of another model.
      InputFileError: the weights cannot be downloaded, are damaged, or do not fit.
      ResourceError: the cache for downloaded weights cannot be written.
    """
    if weights is None:
        return models.create_model(name, 10 if num_classes is None else num_classes, **kwargs)
    models.create_model(name, **kwargs)  # checks the arguments before anything is downloaded
    image_shape = None
    path = Path(weights)
    if is_repository(str(weights)):
        path = fetch_repository(str(weights))
    elif is_name(str(weights)) and not path.exists():
        entry = find_weights(str(weights))
        entry.checked(name)
        path, image_shape, kwargs = fetch(entry), entry.image_shape, {**entry.model_kwargs, **kwargs}
    model, variables, _ = load_variables(path, name, num_classes=num_classes, image_shape=image_shape, **kwargs)
    return model, variables
