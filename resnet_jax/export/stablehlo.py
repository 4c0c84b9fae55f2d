"""Exports a network as a `jax.export` artifact: StableHLO for CPU, CUDA and TPU, with its weights inside."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax import export

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, ExportError

PLATFORMS = ('cpu', 'cuda', 'tpu')
_RELOAD = Path(__file__).with_name('reload_stablehlo.py')


def write(classifier: Classifier, path: Path) -> Classifier:
    """Writes the artifact, and returns the classifier with which it must agree: `classifier` itself.

    Raises:
      ConfigError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401 (jax.export serialises with it)
    except ImportError:
        raise ConfigError("the format stablehlo needs flatbuffers; pip install 'resnet_jax[export]'") from None
    probabilities = functools.partial(classifier.probabilities_fn, classifier.variables)
    (batch,) = export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *classifier.image_shape), np.uint8)
    path.write_bytes(export.export(jax.jit(probabilities), platforms=PLATFORMS)(images).serialize())
    return classifier


def reload(path: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of the artifact in a new process that cannot import this package.

    Raises:
      ExportError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [(str(Path(folder, f'{i}.npy')), str(Path(folder, f'{i}-out.npy'))) for i in range(len(batches))]
        for batch, (name, _) in zip(batches, names, strict=True):
            np.save(name, batch)
        command = [sys.executable, '-I', str(_RELOAD), str(path), *(name for pair in names for name in pair)]
        environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
            raise ExportError(f'{path.name} could not be loaded again ({reason}); not exported')
        return [np.load(name) for _, name in names]
