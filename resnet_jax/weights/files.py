"""Files of weights: reads every supported format, and writes atomically."""

import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from resnet_jax.config import LARGEST_SIDE, choices
from resnet_jax.errors import InputFileError, ResourceError
from resnet_jax.runtime.files import write_atomically
from resnet_jax.typing import Json, JsonDict
from resnet_jax.weights.torch_file import StateDict, read_torch

_LARGEST = 4 * 2**30  # bytes; ten times the size of the largest classic network in float64


def read_state_dicts(path: str | Path) -> tuple[dict[str, StateDict], JsonDict]:
    """Reads .pth, .pt, .th (zip or legacy) or .safetensors; the format is found from the content, not from the name.

    Returns:
      The state dicts by their place in the file (see `read_torch`; '' is the top, the only place in a .safetensors file), and
      the file's metadata: {} unless `write_safetensors` wrote the file.

    Raises:
      InputFileError: the file is missing, unreadable or damaged, or contains anything but tensors.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputFileError(f'{path} is not a file; expected weights as .pth, .pt, .th or .safetensors')
        if status.st_size > _LARGEST:
            raise InputFileError(f'{path} has {status.st_size:,} bytes; expected weights of at most {_LARGEST:,}')
        data = path.read_bytes()
    except OSError as error:
        raise InputFileError(f'{path} cannot be read ({error.strerror}); expected a file of weights') from None
    # A .safetensors file starts with the length of its header in 8 bytes; the ninth byte is the header's opening brace.
    return _read_safetensors(path) if data[8:9] == b'{' else (read_torch(data, path), {})


def _read_safetensors(path: Path) -> tuple[dict[str, StateDict], JsonDict]:
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            return {'': StateDict(shapes, tensors.__getitem__)}, _decode(file.metadata() or {})
    except Exception as error:  # an error of safetensors, or of NumPy for a dtype that it lacks
        reason = ' '.join(str(error).split())[:200]
        raise InputFileError(f'{path} is not a sound .safetensors file ({reason}); fetch or convert it again') from None


def _decode(metadata: Mapping[str, str]) -> JsonDict:
    """Decodes the metadata, whose values are JSON except for 'format'.

    Raises:
      ValueError: a value is missing or invalid.
    """
    if metadata.get('format') != 'resnet_jax':
        return {}
    result = {key: json.loads(value) for key, value in metadata.items() if key != 'format'}
    kwargs, shape = result.get('model_kwargs'), result.get('image_shape')
    if not isinstance(result.get('model'), str) or not isinstance(kwargs, dict) or {'name', 'num_classes'} & kwargs.keys():
        raise ValueError('its metadata do not name a model')
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 0 < n <= LARGEST_SIDE for n in shape):
        raise ValueError(f'its metadata have no image_shape of 3 sizes from 1 to {LARGEST_SIDE}')
    for key in result.keys() & {'mean', 'std'}:
        if not isinstance(result[key], list) or not all(_is_finite(value) for value in result[key]):
            raise ValueError(f'its metadata have no list of numbers as {key}')
    names = result.get('class_names', [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('its metadata have no list of names as class_names')
    if result.get('dtype', 'float32') not in choices('dtype'):
        raise ValueError('its metadata have another dtype than float32 or bfloat16')
    if 'crop' in result and not (_is_finite(result['crop']) and 0 < result['crop'] <= 1):
        raise ValueError('its metadata have no share of the image as crop')
    for key in result.keys() & {'dataset', 'tta', 'interpolation', 'licence'}:
        if not isinstance(result[key], str):
            raise ValueError(f'its metadata have no name as {key}')
    return result


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def write_safetensors(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Json) -> None:
    """Writes arrays and JSON-like metadata.

    Raises:
      ResourceError: the file cannot be written.
    """
    encoded = {'format': 'resnet_jax', **{key: json.dumps(value) for key, value in metadata.items()}}
    # safetensors writes the memory of a transposed array as if it were not transposed.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, safetensors.numpy.save(contiguous, encoded))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically, and creates its folder.

    Raises:
      ResourceError: there is no space or no permission, or the folder cannot be created.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, durable=True)
    except OSError as error:
        raise ResourceError(f'{path} could not be written ({error.strerror}); choose another place or free space') from None
