"""`export_classifier`: exports a trained network to files that work without this package.

  model.stablehlo   a `jax.export` artifact; needs jax and flatbuffers
  model.onnx        for onnxruntime and others
  model.safetensors the weights, for this package; with config.json, for the Hugging Face Hub
  config.json       the preprocessing and the classes; model.safetensors contains them too
  README.md         a model card: how to load the files and, for a run, its recipe and result

StableHLO and ONNX take uint8 images `[batch, height, width, channels]`, of any batch size, and return float32 probabilities
`[batch, classes]`; preprocessing and weights are inside. Every file is reloaded and compared with the network; it is kept only
if the outputs agree.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from resnet_jax.classifier import Classifier
from resnet_jax.errors import ConfigError, ResourceError
from resnet_jax.export import compare, hub, onnx, stablehlo
from resnet_jax.export.card import model_card
from resnet_jax.runtime.files import folder_in_whole, write_json
from resnet_jax.runtime.jax_settings import our_settings

# In the order of writing; each module has `write(classifier, path)` and `reload(path, batches)`.
FORMATS = {'stablehlo': stablehlo, 'onnx': onnx, 'safetensors': hub}


@our_settings()
def export_classifier(classifier: Classifier, out: str | Path, formats: Sequence[str] = ('stablehlo',)) -> dict[str, float]:
    """Exports a classifier to a new folder, which appears only when all files are written and compared.

    The files use one view of each image, whatever the classifier's `tta`, and contain none of the C kernels. The comparison
    runs on the CPU, where it is exact; the StableHLO artifact runs on CPU, CUDA and TPU.

    Args:
      classifier: from a run or from weights. For a run, the model card quotes its result.json and environment.json.
      out: the folder to create; may be an existing empty folder.
      formats: names from `FORMATS`.

    Returns:
      {format: largest absolute difference between a probability of the file and of the network}.

    Raises:
      ConfigError: a format is unknown, its packages are not installed, or `out` is not empty.
      InputFileError: result.json or environment.json of the run cannot be read.
      ExportError: a file's outputs differ from the network's.
      ResourceError: `out` cannot be written.
    """
    if not formats or set(formats) - set(FORMATS):
        raise ConfigError(f'unknown export format in {list(formats)}; expected some of {", ".join(FORMATS)}')
    out = Path(os.path.abspath(out))  # noqa: PTH100 (removes '..', so that there is a name for the temporary folder)
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise ConfigError(f'{out} exists; expected the name of a new or empty folder')
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        variables = jax.tree.map(np.asarray, classifier.variables)  # constants in the programs
        classifier = dataclasses.replace(classifier, variables=variables, tta='none')
        differences = {}
        try:
            with folder_in_whole(out) as partial:
                for name in FORMATS:
                    if name in formats:
                        path = partial / f'model.{name}'
                        exported = FORMATS[name].write(classifier, path)
                        differences[name] = compare.check(exported, path, FORMATS[name].reload)
                (hub.write_config if 'safetensors' in formats else _write_config)(classifier, partial)
                (partial / 'README.md').write_text(model_card(classifier, differences), encoding='utf-8')
        except OSError as error:
            raise ResourceError(f'{out} could not be written: {error}; free space or choose another folder') from None
    return differences


def _write_config(classifier: Classifier, folder: Path) -> None:
    """Writes config.json: the facts that a program that runs the files, such as `serve`, needs in addition."""
    names = ('image_shape', 'class_names', 'resize', 'crop', 'interpolation')
    known = {'model': classifier.origin.model, 'dataset': classifier.origin.dataset}
    config = {**{name: getattr(classifier, name) for name in names}, **{name: text for name, text in known.items() if text}}
    write_json(folder / 'config.json', config)
