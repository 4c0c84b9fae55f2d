"""Exports a network as ONNX with jax2onnx.

jax2onnx converts Flax layers to ONNX operators (Conv, BatchNormalization), so it never sees the CPU form of our convolution.
"""

import contextlib
import dataclasses
import functools
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, ExportError, one_line


def write(classifier: Classifier, path: Path) -> Classifier:
    """Writes the network in float32, and returns the float32 classifier that the file must agree with.

    A network trained in bfloat16 has float32 weights, and onnxruntime has no bfloat16 convolution on a CPU.

    Raises:
      ConfigError: the converter or onnxruntime is not installed.
      ExportError: the converter failed.
    """
    model = classifier.model.clone(dtype=jnp.float32)
    classifier = dataclasses.replace(classifier, model=model, dtype=np.dtype(np.float32))
    images = jax.ShapeDtypeStruct(('batch', *classifier.image_shape), np.uint8)
    probabilities = functools.partial(classifier.probabilities_fn, classifier.variables)
    with _quiet():
        try:
            import onnx
            import onnxruntime  # noqa: F401 (fail before the conversion, not after)
            from jax2onnx import to_onnx
        except ImportError as error:
            also = ', on Python 3.12 or later also pip install --no-deps jax2onnx' if error.name == 'jax2onnx' else ''
            raise ConfigError(f"the format onnx needs {error.name}; pip install 'resnet_jax[export]'{also}") from None
        name = classifier.origin.model or type(model).__name__
        names = {'model_name': name, 'input_names': ['images'], 'output_names': ['probabilities']}
        try:
            graph = to_onnx(probabilities, [images], **names)
            # jax2onnx (0.13.0 and 0.17.1) keeps NHWC shapes on values that it has converted to NCHW. Shapes are optional.
            del graph.graph.value_info[:]
            onnx.checker.check_model(graph)
        except Exception as error:  # jax2onnx raises many kinds of errors
            reason = one_line(error)
            raise ExportError(f'jax2onnx could not convert the network ({type(error).__name__}: {reason})') from error
    path.write_bytes(graph.SerializeToString())
    return classifier


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter from printing every layer and from logging each plugin whose library is not installed."""
    loggers = [logging.getLogger(name) for name in ('jax2onnx', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reload(path: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Returns onnxruntime's outputs on a CPU.

    Raises:
      ExportError: onnxruntime cannot load or run the file.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return [session.run(['probabilities'], {'images': batch})[0] for batch in batches]
    except Exception as error:  # its error classes have no common base
        raise ExportError(f'{path.name} could not be loaded again ({one_line(error)}); not exported') from error
