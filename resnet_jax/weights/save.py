"""Saves variables as a file for PyTorch or for this library."""

from pathlib import Path

import flax.linen as nn
import numpy as np

from resnet_jax.errors import ConfigError
from resnet_jax.models.checks import check_choice
from resnet_jax.typing import Json, Variables
from resnet_jax.weights.files import write_bytes, write_safetensors
from resnet_jax.weights.names import NAMINGS, default_naming, flatten, to_torch, torch_name
from resnet_jax.weights.torch_file import torch_bytes


def save_torch(path: str | Path, model: nn.Module, variables: Variables, naming: str | None = None) -> None:
    """Writes a state dict for torch.load(weights_only=True) and load_state_dict(strict=True).

    Args:
      model, variables: the network and its {'params', 'batch_stats'}, float32.
      naming: one of `names.NAMINGS`; by default D2L's for D2L's networks, icpm's for AlexNet, timm's for ResNet-D and
        torchvision's for all others.

    Raises:
      ConfigError: the naming is unknown, or gives two arrays of this model the same name.
      ResourceError: the file cannot be written.
    """
    naming = naming or default_naming(model)
    check_choice('naming', naming, tuple(NAMINGS))
    arrays = _float32(variables)
    shapes = {name: array.shape for name, array in arrays.items()}
    tensors: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        key = torch_name(name, naming)
        if key in tensors:
            raise ConfigError(
                f'naming {naming} is not for this model: two arrays would be {key}; expected {default_naming(model)}'
            )
        tensors[key] = to_torch(array, model, name, shapes)
        if key.endswith('.running_var'):  # PyTorch's batch counter; PyTorch uses it only if momentum is None
            tensors[f'{key.removesuffix("running_var")}num_batches_tracked'] = np.array(0, np.int64)
    write_bytes(path, torch_bytes(tensors))


def save_safetensors(path: str | Path, variables: Variables, metadata: Json) -> None:
    """Writes variables with our names, e.g. 'params/conv1/kernel', in our layout.

    Args:
      metadata: JSON-like values. `load_variables` requires 'model', 'model_kwargs' (the arguments of `create_model`) and
        'image_shape' (height, width, channels). `Classifier.load` also uses 'class_names', 'mean', 'std', 'dtype', 'tta' and
        'dataset'.

    Raises:
      ConfigError: a variable is not float32, or required metadata are missing.
      ResourceError: the file cannot be written.
    """
    if absent := [key for key in ('model', 'model_kwargs', 'image_shape') if key not in metadata]:
        raise ConfigError(f'metadata has no {", ".join(absent)}; expected all that is needed to make the model')
    write_safetensors(path, _float32(variables), metadata)


def _float32(variables: Variables) -> dict[str, np.ndarray]:
    arrays = flatten({key: variables[key] for key in ('params', 'batch_stats') if key in variables})
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ConfigError(f'{name} is {array.dtype}; expected float32, as every variable of a model here')
    return arrays
