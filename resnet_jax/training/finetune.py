"""The start of a fine-tuned run: the arrays and the preprocessing that it takes from trained weights, and a record of them."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.classifier import Classifier
from resnet_jax.config import TrainConfig
from resnet_jax.data import Dataset, DatasetInfo
from resnet_jax.data.normalization import NORMALIZATIONS, find_normalization
from resnet_jax.data.options import DEFAULT_SIZE
from resnet_jax.errors import ConfigError, InputFileError, did_you_mean
from resnet_jax.network import build_model
from resnet_jax.runs import checkpoint
from resnet_jax.runs.documents import Checks, are_numbers, are_texts, check_document, is_integer, is_text
from resnet_jax.runtime.untrusted import parse_json, read_text
from resnet_jax.training.pretrained import Weights, check_exists, of_classifier, read_weights, wanted_names
from resnet_jax.typing import Json, JsonDict
from resnet_jax.weights.match import model_shapes
from resnet_jax.weights.parts import HEAD, bare, head_names
from resnet_jax.weights.transfer import convert_channels, transfer

RECORD = 'init_from.json'  # in the run folder
_SHOWN = 5  # number of class names in a message


def _or_none(accepts: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or accepts(value)


_CHECKS: Checks = {  # for the fields of the record: see `Start`
    **dict.fromkeys(('source', 'file', 'sha256', 'model'), is_text),
    **dict.fromkeys(('loaded', 'not_loaded', 'unused', 'notes'), are_texts),
    'model_kwargs': lambda value: isinstance(value, dict),
    'num_classes': _or_none(is_integer),
    'class_names': _or_none(are_texts),
    'image_shape': _or_none(
        lambda value: isinstance(value, list) and len(value) == 3 and all(is_integer(n, low=1) for n in value)
    ),
    'mean': _or_none(are_numbers),
    'std': _or_none(functools.partial(are_numbers, above=0)),
    HEAD: lambda value: value in ('kept', 'new'),
}


@dataclasses.dataclass(frozen=True)
class Start:
    """The trained weights that a run starts from.

    Attributes:
      arrays: the arrays that the network takes from the weights, by name with collection; None if the run has a checkpoint.
      record: the contents of init_from.json: 'source', 'file', 'sha256', 'model', 'model_kwargs', 'num_classes',
        'class_names', 'image_shape', 'mean' and 'std' of the weights; 'loaded', 'not_loaded' and 'unused', names of arrays;
        'head', 'kept' or 'new'; and 'notes', lines about the channels, the size and the normalization.
    """

    arrays: Mapping[str, np.ndarray] | None
    record: JsonDict

    def check_loaded(self) -> None:
        """Checks that the arrays are loaded.

        Raises:
          InputFileError: the run's checkpoints were deleted while it started.
        """
        if self.arrays is None:
            raise InputFileError('the checkpoints that the run was to continue from have gone; start it again')

    def describe(self, dataset: Dataset) -> list[str]:
        """Returns lines for the log about which arrays were loaded and which were not."""
        record = self.record
        count = len(record['loaded']) + len(record['not_loaded'])
        new = sorted({bare(name).rpartition('/')[0] for name in record['not_loaded']})
        lines = [
            f'Starts from {record["source"]} ({record["file"]}, SHA-256 {record["sha256"][:12]}...): '
            f'{len(record["loaded"])} of {count} arrays'
            + (f'; new: {", ".join(new[:8])}{", ..." if len(new) > 8 else ""}' if new else '')
            + (f'; not used: {len(record["unused"])} of theirs' if record['unused'] else '')
            + '.'
        ]
        theirs, ours = (
            _classes(record['num_classes'], record['class_names']),
            _classes(dataset.num_classes, dataset.class_names),
        )
        head = f'The head is {record[HEAD]}: the weights have {theirs}, {dataset.name} has {ours}.'
        if record[HEAD] == 'kept' and record['class_names'] not in (None, list(dataset.class_names)):
            head += ' Their names differ; init_head=new starts a new one.'
        return [*lines, head, *record['notes']]


def load_weights(config: TrainConfig, workdir: str | Path) -> Classifier | None:
    """Returns the classifier that a run starts from; None if the file has no preprocessing, or if the run has started.

    Raises:
      ConfigError, InputFileError, ResourceError: see `Classifier.load`.
    """
    if not config.init_from or _has_started(Path(workdir)) or Path(config.init_from).is_file():
        return None
    check_exists(config.init_from)
    return Classifier.load(config.init_from, ema=config.init_ema)


def default_size(config: TrainConfig, workdir: str | Path, weights: Classifier | None) -> int:
    """Returns the default image size: the size that the weights were trained on, if known."""
    shape = weights.image_shape if weights else None
    if config.init_from and _has_started(Path(workdir)):
        shape = _read_record(Path(workdir, RECORD)).get('image_shape')
    return shape[0] if shape else DEFAULT_SIZE


def _has_started(folder: Path) -> bool:
    return bool(checkpoint.steps(folder / 'checkpoints')) or (folder / 'result.json').exists()


def begin(
    config: TrainConfig, info: DatasetInfo, workdir: str | Path, classifier: Classifier | None = None
) -> tuple[DatasetInfo, Start | None]:
    """Returns the data set's info with the mean and std that the run uses, and the weights that the run starts from, if any.

    A run with a checkpoint no longer reads the weights.

    Args:
      classifier: the weights to start from, instead of `config.init_from`.

    Raises:
      InputFileError: the weights are missing, damaged, or of another model; names the nearest.
      ConfigError: a pattern matches nothing, the weights have another head and `init_head` is 'keep', or `normalization`
        is unknown.
    """
    known: Json = {}
    start = None
    if config.init_from:
        if _has_started(Path(workdir)):
            start = Start(None, _read_record(Path(workdir, RECORD)))
            known = start.record
        else:
            model = build_model(config, info.num_classes, info.image_shape)
            weights = of_classifier(classifier, config) if classifier else read_weights(config, model, info)
            known = {'mean': weights.mean, 'std': weights.std}
            start = _start(weights, model, config, info)
    mean, std = _normalization(config, info, known)
    if start and start.arrays is not None:
        start.record['notes'].append(_normalization_note(config, known, mean, std))
    return dataclasses.replace(info, mean=mean, std=std), start


def with_normalization(dataset: Dataset, config: TrainConfig, info: DatasetInfo) -> Dataset:
    """Returns the data set with the mean and std of `info`, as `begin` returns it."""
    if not config.init_from and config.normalization == 'auto':
        return dataset
    return dataclasses.replace(dataset, mean=info.mean, std=info.std)


def finetuning_config(
    classifier: Classifier, dataset: str | Dataset, config: TrainConfig | ConfigDict | Json | None, overrides: Json
) -> TrainConfig:
    """Returns the config of `loop.finetune`.

    Raises:
      ConfigError: the name of the classifier's model is unknown, or a field is unknown or out of range.
    """
    origin = classifier.origin
    if not origin.model:
        raise ConfigError('the classifier does not know its model by name; expected origin=Origin(name, model_kwargs)')
    if isinstance(config, TrainConfig):
        values = config.to_dict()
    elif config is None:
        values = _recipe(origin.config)
    else:
        values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return TrainConfig.from_mapping(
        {
            **values,
            'dtype': classifier.dtype.name,
            'tta': classifier.tta,
            **overrides,
            'dataset': dataset if isinstance(dataset, str) else dataset.name,
            'model': origin.model,
            'model_kwargs': dict(origin.model_kwargs),
            'init_from': origin.path or 'a network in memory',
        }
    )


def _recipe(trained: TrainConfig | None) -> JsonDict:
    """Returns the default fields of a fine-tuned run: those that trained the network, with fewer epochs and lower rates."""
    default = TrainConfig()
    values = (trained or default).to_dict()
    reset = ('seed', 'validation_size', 'train_size', 'proxy_model', 'proxy_model_kwargs', 'freeze', 'unfreeze_epochs')
    return {
        **values,
        **{name: getattr(default, name) for name in (*reset, 'init_only', 'init_head', 'init_ema', 'normalization')},
        'num_epochs': 10,
        'warmup_epochs': min(1.0, values['warmup_epochs']),
        **{name: values[name] / 10 for name in ('learning_rate', 'bias_learning_rate', 'head_learning_rate')},
    }


def _normalization(config: TrainConfig, info: DatasetInfo, known: Json) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = info.image_shape[-1]
    if config.normalization == 'dataset':
        return info.mean, info.std
    if config.normalization != 'auto':
        if config.normalization not in NORMALIZATIONS:
            names = ('auto', 'dataset', *NORMALIZATIONS)
            raise ConfigError(
                f'normalization is {config.normalization!r}{did_you_mean(config.normalization, names)}; expected one of '
                f'{", ".join(names)}'
            )
        mean, std = find_normalization(config.normalization)
    elif known.get('mean') and known.get('std'):
        mean, std = tuple(known['mean']), tuple(known['std'])
    else:
        return info.mean, info.std
    return convert_channels(mean, channels), convert_channels(std, channels)


def _normalization_note(config: TrainConfig, known: Json, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    numbers = f'mean {", ".join(f"{x:.4g}" for x in mean)}, std {", ".join(f"{x:.4g}" for x in std)}'
    if config.normalization != 'auto':
        return f'Normalization: {config.normalization}, {numbers}.'
    if known['mean']:
        return f'Normalization: that of the weights, {numbers}.'
    return (
        f'Normalization: that of the data set, {numbers}; the weights do not say theirs: if you know it, set normalization, as '
        'to imagenet.'
    )


def _start(weights: Weights, model: nn.Module, config: TrainConfig, info: DatasetInfo) -> Start:
    head, shapes = head_names(model, info.image_shape), model_shapes(model, info.image_shape)
    wanted = wanted_names(config, model, info.image_shape, head)
    notes = []
    other = any(name in wanted and name in weights.arrays and weights.arrays[name].shape != shapes[name] for name in head)
    if other:
        if config.init_head == 'keep':
            raise ConfigError(
                f'{weights.source} has a head for {_classes(weights.num_classes, weights.class_names)}, and {info.name} has '
                f'{info.num_classes} classes; expected as many, or init_head=auto for a new head'
            )
        wanted -= head
    kwargs = ''.join(f', {name}={value!r}' for name, value in weights.model_kwargs.items())
    moved = transfer(
        weights.arrays,
        model,
        info.image_shape,
        wanted=wanted,
        strict=not config.init_only,
        source=f'{weights.source} ({weights.model}{kwargs})',
        advice=f'expected model={weights.model} and its model_kwargs, or init_only=PATTERN for the layers that fit',
    )
    if moved.channels:
        notes.append(f'Channels: {moved.channels}.')
    if weights.image_shape and weights.image_shape[:2] != info.image_shape[:2]:
        before, after = ('x'.join(map(str, shape[:2])) for shape in (weights.image_shape, info.image_shape))
        notes.append(f'Size: the weights were trained on images of {before} pixels, and {info.name} has {after}.')
    record = {
        'source': weights.source,
        'file': weights.file,
        'sha256': weights.sha256,
        'model': weights.model,
        'model_kwargs': json.loads(json.dumps(dict(weights.model_kwargs), default=str)),
        'num_classes': weights.num_classes,
        'class_names': list(weights.class_names) if weights.class_names else None,
        'image_shape': list(weights.image_shape) if weights.image_shape else None,
        'mean': list(weights.mean) if weights.mean else None,
        'std': list(weights.std) if weights.std else None,
        'loaded': sorted(moved.arrays),
        'not_loaded': sorted(moved.new),
        'unused': list(moved.unused),
        HEAD: 'kept' if head <= moved.arrays.keys() else 'new',
        'notes': notes,
    }
    return Start(moved.arrays, record)


def _classes(count: int, names: Sequence[str] | None) -> str:
    """Returns '10 classes (airplane, automobile, ...)'."""
    if not names:
        return f'{count} classes'
    return f'{count} classes ({", ".join(names[:_SHOWN])}{", ..." if len(names) > _SHOWN else ""})'


def _read_record(path: Path) -> JsonDict:
    """Returns the record of the weights from the folder of a started run.

    Raises:
      InputFileError: the file is missing or damaged.
    """
    try:
        record = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputFileError(
            f'{path} cannot be read ({reason}), without which a run cannot continue; restore it, or choose another run folder'
        ) from None
    try:
        checked = check_document(record, {}, _CHECKS)
        if (checked.get('mean') is None) != (checked.get('std') is None):
            raise ValueError('it has one of mean and std')
    except ValueError as error:
        raise InputFileError(f'{path} is not what a run writes ({error}); restore it, or choose another run folder') from None
    return {**checked}
