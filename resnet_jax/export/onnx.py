"""Exports a network as ONNX, and runs the file with onnxruntime."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, ExportError, one_line


def write(classifier: Classifier, path: Path) -> Classifier:
    """Writes the network in float32, and returns the float32 classifier with which the file must agree.

    The weights of a network trained in bfloat16 are float32, and onnxruntime has no bfloat16 convolution on a CPU.

    Raises:
      ConfigError: onnx or onnxruntime is not installed.
      ExportError: the network has an operation that cannot be converted.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 (fail before the conversion, not after)
    except ImportError as error:
        raise ConfigError(f"the format onnx needs {error.name}; pip install 'resnet_jax[export]'") from None
    from resnet_jax.export.onnx_convert import convert

    model = classifier.model.clone(dtype=jnp.float32)
    classifier = dataclasses.replace(classifier, model=model, dtype=np.dtype(np.float32))
    names = {'name': classifier.origin.model or type(model).__name__, 'input_name': 'images', 'output_name': 'probabilities'}
    graph = convert(classifier.probabilities_fn, classifier.variables, classifier.image_shape, **names)
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString())
    return classifier


def reload(path: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Returns onnxruntime's outputs on a CPU.

    Raises:
      ExportError: onnxruntime cannot load or run the file.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return [session.run(['probabilities'], {'images': batch})[0] for batch in batches]
    except Exception as error:  # the error classes of onnxruntime have no common base
        raise ExportError(f'{path.name} could not be loaded again ({one_line(error)}); not exported') from error
