"""The model card of an exported classifier: README.md with YAML metadata for the Hugging Face Hub.

All text from the run is escaped, so that class names and config values are never markup.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import yaml

from resnet_jax.classifier import Classifier
from resnet_jax.errors import InputFileError
from resnet_jax.runs.documents import read_result
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.typing import JsonDict

_PRIVATE = ('data_dir', 'data_archive')  # paths on the machine that trained the network
_LOAD = {
    'stablehlo': """### StableHLO

For CPU, CUDA and TPU; needs `pip install jax flatbuffers`, not `resnet_jax`.

```python
from pathlib import Path
import jax, jax.export
exported = jax.export.deserialize(bytearray(Path('model.stablehlo').read_bytes()))
classify = jax.jit(exported.call)
probabilities = classify(images)  # numpy uint8 {images} -> float32 {probabilities}
```

Written by jax {jax}. JAX promises that versions up to six months newer read it.
""",
    'safetensors': """### Weights

Needs this package, `resnet_jax`.

```python
import resnet_jax
classifier = resnet_jax.load('.')  # this folder, or 'hf://OWNER/REPOSITORY' of the Hugging Face Hub
probabilities = classifier.probabilities(images)  # numpy uint8 {images} -> float32 {probabilities}
```
""",
    'onnx': """### ONNX

Needs `pip install onnxruntime`; computes in float32.

```python
import onnxruntime
session = onnxruntime.InferenceSession('model.onnx')
probabilities = session.run(None, {{'images': images}})[0]  # numpy uint8 {images} -> float32 {probabilities}
```
""",
}


def model_card(classifier: Classifier, differences: Mapping[str, float]) -> str:
    """Returns the model card of an exported classifier.

    For a run, reads result.json and environment.json in its folder, if they exist.

    Args:
      differences: {format: largest absolute difference between a probability of the file and of the network}.

    Raises:
      InputFileError: result.json or environment.json cannot be read.
    """
    origin = classifier.origin
    result = result_of(classifier)
    model, dataset = _line(origin.model or type(classifier.model).__name__), _line(origin.dataset)
    names = classifier.class_names
    metadata: JsonDict = {
        'library_name': 'jax',
        'license': origin.licence or ('apache-2.0' if origin.config else 'unknown'),
        'pipeline_tag': 'image-classification',
        'tags': ['image-classification', 'jax', 'flax', 'resnet_jax', model, *differences],
        **({'datasets': [dataset]} if dataset else {}),
        'metrics': ['accuracy'],
    }
    if result:
        accuracy, loss = float(result['accuracy']), float(result['loss'])
        views = _line(result.get('tta', 'none'))
        averaged = {} if views == 'none' else {'args': {'tta': views}}
        measured = {
            'task': {'type': 'image-classification'},
            'dataset': {'name': dataset, 'type': dataset, 'split': _line(result['split'])},
            'metrics': [
                {'type': 'accuracy', 'value': accuracy, **averaged},
                {'type': 'loss', 'value': loss, **averaged},
            ],
        }
        metadata['model-index'] = [{'name': model, 'results': [measured]}]
    lines = ['---', yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(), '---', '']
    lines += [f'# {_text(model)} trained on {_text(dataset)}' if dataset else f'# {_text(model)}', '']
    if not result:
        lines += ['No result: the run had not finished when it was exported.' if origin.config else 'No result is known.', '']
    else:
        lines += [
            f'{_text(result["split"]).capitalize()} accuracy {100 * accuracy:.2f} % of {_text(result["count"])} images, '
            f'loss {loss:.4f}, after {_text(result["epoch"])} epochs ({origin.step} iterations). '
            + (
                'The epoch was chosen by accuracy on held-out training images.'
                if result['selected'] == 'validation'
                else 'The last epoch, not the best.'
            )
            + (f' The logits were averaged over views ({_text(views)}); the files here take one view.' if averaged else ''),
            '',
        ]
    if origin.ema and origin.config:
        lines += [f'The parameters are averages over training, with decay {origin.config.ema_decay:g}.', '']

    height, width, channels = classifier.image_shape
    lines += ['## Load', '']
    shapes = {'images': f'[n, {height}, {width}, {channels}]', 'probabilities': f'[n, {len(names)}]'}
    for name, difference in differences.items():
        lines += [
            _LOAD[name].format(jax=jax.__version__, **shapes),
            f'Compared with the network when it was exported: no probability differed by more than {difference:.1g}.',
            '',
        ]
    lines += [
        '## Preprocessing',
        '',
        f'Inside the model. Give it uint8 pixels, height {height}, width {width}, {channels} channel'
        + ('s (RGB)' if channels == 3 else '' if channels == 1 else 's')
        + f', not normalised; it computes (pixel / 255 - mean) / std with mean {_numbers(classifier.mean or (0.0,))} and '
        f'std {_numbers(classifier.std or (1.0,))}.'
        + (
            ''
            if classifier.crop == 1 and classifier.interpolation == 'bicubic'
            else f' From a photograph take the centre square with {classifier.crop:.4g} of the shorter side, resized '
            f'({_text(classifier.interpolation)}).'
        ),
        '',
        '## Classes',
        '',
        *(f'{index}. {_text(name)}' for index, name in enumerate(names)),
        '',
    ]
    if origin.config:
        config = {name: value for name, value in origin.config.to_dict().items() if name not in _PRIVATE}
        lines += [
            '## Recipe',
            '',
            f'The config, as it was trained with; the data had the fingerprint {_text(origin.fingerprint)}.',
            '',
            '```json',
            json.dumps(config, indent=1, sort_keys=True),
            '```',
            '',
            '## Trained with',
            '',
            '```json',
            json.dumps(_read(Path(origin.path, 'environment.json')), indent=1),
            '```',
            '',
        ]
    return '\n'.join(lines)


def result_of(classifier: Classifier) -> JsonDict:
    """Returns result.json of a classifier's run, with the metrics of the classifier's parameters; {} if there is none.

    Raises:
      InputFileError: see `documents.read_result`; or result.json lacks the metrics of the averaged parameters.
    """
    origin = classifier.origin
    result = read_result(Path(origin.path)) if origin.config else None
    if not result or result['step'] != origin.step:  # the result is of another checkpoint
        return {}
    if not origin.ema:
        return result
    if 'ema_accuracy' not in result:
        raise InputFileError(f'{origin.path}/result.json has no ema_accuracy; delete it to evaluate the run again')
    return {**result, **{name: result[f'ema_{name}'] for name in ('accuracy', 'loss')}}


def _read(path: Path) -> JsonDict:
    """Returns the object in a JSON file; {} if there is no such file.

    Raises:
      InputFileError: the file is not JSON, or not an object.
    """
    try:
        value = parse_json(read_text(path)) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputFileError(f'{path} cannot be read as JSON ({error}); restore it or train again') from None
    if not isinstance(value, dict):
        raise InputFileError(f'{path} holds {type(value).__name__}, expected an object; restore it or train again')
    return value


def _line(value: object) -> str:
    return ' '.join(''.join(c if c.isprintable() else ' ' for c in str(value)).split())


def _text(value: object) -> str:
    """Returns a value as one line of Markdown, escaped so that it is shown literally."""
    escaped = re.sub(r'([\\`*_\[\]<>&|#~$!])', r'\\\1', _line(value))
    return re.sub(r'^(\d*)([-+=.)])', r'\1\\\2', escaped)  # the start of a list or a rule


def _numbers(values: Sequence[float]) -> str:
    return ', '.join(f'{float(value):.4f}' for value in values)
