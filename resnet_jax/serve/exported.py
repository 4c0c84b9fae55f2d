"""Exported networks, for serving: model.stablehlo and model.onnx, made by `resnet_jax.export`."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from resnet_jax.config import RESIZE
from resnet_jax.data.images import INTERPOLATIONS
from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.runtime.streams import without_native_messages
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.serve.program import BatchFn
from resnet_jax.typing import JsonDict

_FILES = ('model.stablehlo', 'model.onnx')
_CONFIG = 'config.json'


def find(path: Path) -> Path | None:
    """Returns the exported program at a path (a file or folder); None if there is none, or if there are weights instead."""
    if path.suffix in ('.stablehlo', '.onnx'):
        return path
    if (path / 'model.safetensors').is_file() or (path / 'checkpoints').is_dir():
        return None
    return next((path / name for name in _FILES if (path / name).is_file()), None)


def load(file: Path) -> tuple[Callable[[int], BatchFn], tuple[int, int, int], int]:
    """Returns a function from a batch size to its program, the shape of the images, and the number of classes.

    The program is a function from images to probabilities.

    Raises:
      ConfigError: a package is missing.
      InputFileError: the file is damaged, or is not a network from uint8 images to probabilities.
    """
    if not file.is_file():  # reading a pipe or a device would not end
        raise InputFileError(
            f'{file} is no file; expected model.stablehlo or model.onnx of an exported folder: export it again'
        )
    try:
        compile_for, images, probabilities = (_onnx if file.suffix == '.onnx' else _stablehlo)(file)
    except ImportError as error:
        raise ConfigError(f"{file} needs {error.name}; expected it: pip install 'resnet_jax[export]'") from None
    except Exception as error:  # neither reader documents its errors
        raise InputFileError(f'{file} cannot be read ({one_line(error)[:200]}); export it again') from None
    sizes = [n for n in (*images[1:], *probabilities[1:]) if isinstance(n, int) and n > 0]
    if len(images) != 4 or len(probabilities) != 2 or len(sizes) != 4:
        raise InputFileError(
            f'{file} goes from {list(images)} to {list(probabilities)}; expected uint8 images [batch, height, width, channels] '
            'and probabilities [batch, classes], as an export makes it'
        )
    height, width, channels, classes = sizes
    return compile_for, (height, width, channels), classes


def describe(file: Path, num_classes: int) -> JsonDict:
    """Returns the facts in config.json beside an exported file; without config.json, numbers as class names.

    Raises:
      InputFileError: config.json is damaged, or of another network.
    """
    path = file.with_name(_CONFIG)
    try:
        numbers = {'class_names': [str(index) for index in range(num_classes)]}
        described: JsonDict = parse_json(read_text(path)) if path.is_file() else numbers
        names, crop = described['class_names'], described.get('crop', 1.0)
        sound = len(names) == num_classes and all(isinstance(name, str) for name in names) and 0 < crop <= 1
        sound &= described.get('resize', 'crop') in RESIZE and described.get('interpolation', 'bicubic') in INTERPOLATIONS
        if not sound:
            raise ValueError(f'it is not of {num_classes} classes, or resizes images in an unknown way')
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputFileError(f'{path} does not describe {file.name} ({one_line(error)}); export it again') from None
    keys = ('class_names', 'resize', 'crop', 'interpolation', 'model', 'dataset')
    return {key: described[key] for key in keys if key in described}


def _stablehlo(file: Path) -> tuple[Callable[[int], BatchFn], tuple[object, ...], tuple[object, ...]]:
    import flatbuffers  # noqa: F401 (jax.export reads with it)

    exported = export.deserialize(bytearray(file.read_bytes()))
    with without_native_messages():  # messages about a damaged program, in addition to the raised error
        exported.mlir_module()
    (images,), (probabilities,) = exported.in_avals, exported.out_avals

    def compile_for(size: int) -> BatchFn:
        batch = jax.ShapeDtypeStruct((size, *images.shape[1:]), np.uint8)
        compiled = jax.jit(exported.call).lower(batch).compile()
        return lambda batch: np.asarray(compiled(batch))

    return compile_for, images.shape, probabilities.shape


def _onnx(file: Path) -> tuple[Callable[[int], BatchFn], tuple[object, ...], tuple[object, ...]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()

    def run(batch: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run([probabilities.name], {images.name: batch})[0]
        return result

    return lambda size: run, tuple(images.shape), tuple(probabilities.shape)
