"""Reads `dataset_info.json` and `features.json` of a folder prepared by tfds, without tfds.

Both are protocol buffers as JSON (`dataset_info.proto`, `feature.proto` of tfds); 64-bit numbers are strings.
"""

import dataclasses
import os
from pathlib import Path

from resnet_jax.errors import InputFileError
from resnet_jax.runtime.untrusted import parse_json, printable, read_text
from resnet_jax.typing import Json

_AGAIN = 'copy or prepare the folder again'
_IMAGE, _LABEL = '.image_feature.Image', '.class_label_feature.ClassLabel'


@dataclasses.dataclass(frozen=True)
class Shard:
    """A record file and the number of its records."""

    path: Path
    length: int


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of a folder prepared by tfds.

    Attributes:
      file_format: 'array_record' or 'tfrecord'.
      shards: {split: its record files, in order}.
      image_key, label_key: names of the features.
    """

    file_format: str
    shards: dict[str, list[Shard]]
    image_key: str
    label_key: str
    class_names: tuple[str, ...]


def read_description(folder: Path) -> Description:
    """Reads both files and the class names.

    Raises:
      InputFileError: a file is missing or damaged, or the data set does not consist of images with one class each.
    """
    info = _read(folder / 'dataset_info.json')
    file_format = info.get('fileFormat') or 'tfrecord'  # early tfds versions had only this format and left the entry out
    if file_format not in ('array_record', 'tfrecord'):
        raise _wrong(folder / 'dataset_info.json', f'says format {file_format!r}', 'array_record or tfrecord')
    try:
        shards = {str(split['name']): _shards(folder, str(info['name']), file_format, split) for split in info['splits']}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _wrong(
            folder / 'dataset_info.json', f'has no sound list of splits ({error!r:.100})', 'what tfds writes'
        ) from None
    features = _features(folder)
    image_key, label_key = _keys(folder, features, info.get('supervisedKeys'))
    return Description(file_format, shards, image_key, label_key, _class_names(folder, label_key, features[label_key]))


def _read(path: Path) -> Json:
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputFileError(f'{path} is missing or damaged ({reason}): expected a folder prepared by tfds; {_AGAIN}') from None
    if not isinstance(value, dict):
        raise _wrong(path, 'is not an object', 'what tfds writes')
    return value


def _shards(folder: Path, name: str, file_format: str, split: Json) -> list[Shard]:
    lengths = [int(length) for length in split.get('shardLengths', ())]
    if min(lengths, default=0) < 0:
        raise ValueError('a negative length')
    digits = max(len(str(len(lengths))), 5)
    template = split.get('filepathTemplate') or '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
    if not isinstance(template, str):
        raise TypeError('a template that is no text')
    paths = []
    for i in range(len(lengths)):
        index, count = f'{i:0{digits}d}', f'{len(lengths):0{digits}d}'
        path = template
        for key, value in (
            ('DATASET', name),
            ('SPLIT', str(split['name'])),
            ('FILEFORMAT', file_format),
            ('SHARD_X_OF_Y', f'{index}-of-{count}'),
            ('SHARD_INDEX', index),
            ('NUM_SHARDS', count),
        ):
            path = path.replace(f'{{{key}}}', value)
        if '\0' in path:
            raise ValueError('a path with a null byte')
        os.fsencode(path)  # half of a surrogate pair raises ValueError
        if '..' in Path(path).parts or Path(path).is_absolute():
            raise ValueError('a path out of the folder')
        paths.append(folder / path)
    return [Shard(path, length) for path, length in zip(paths, lengths, strict=True)]


def _features(folder: Path) -> dict[str, tuple[str, Json]]:
    """Returns {key: (name of the feature's class, its JSON)} of the features at the top level.

    Raises:
      InputFileError: the file is missing or damaged.
    """
    described = _read(folder / 'features.json')
    try:  # tfds wrote 'content' and 'type' before 2021
        content = described['featuresDict']['features'] if 'featuresDict' in described else described['content']
        return {
            str(key): (str(value.get('pythonClassName') or value['type']), value.get('content') or value)
            for key, value in content.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise _wrong(folder / 'features.json', f'has no sound features ({error!r:.100})', 'what tfds writes') from None


def _keys(folder: Path, features: dict[str, tuple[str, Json]], supervised: Json | None) -> tuple[str, str]:
    supervised = supervised if isinstance(supervised, dict) else {}
    try:
        items = [item['featureKey'] for item in supervised['tuple']['items']]
    except (KeyError, TypeError):
        items = [supervised.get('input'), supervised.get('output')]  # tfds wrote these before 2021
    chosen = []
    for i, (kind, usual) in enumerate(((_IMAGE, 'image'), (_LABEL, 'label'))):
        keys = [key for key, (class_name, _) in features.items() if class_name.endswith(kind)]
        preferred = [key for key in (*items[i : i + 1], usual) if key in keys]
        if not preferred and len(keys) != 1:
            feature = kind.rpartition('.')[2]
            named = ', '.join(f'{key}: {class_name.rpartition(".")[2]}' for key, (class_name, _) in features.items())
            raise InputFileError(
                f'{folder / "features.json"} describes {printable(named)[:300] or "nothing"}: expected one {feature}, or one '
                f"that is named '{usual}', for a data set of images with a class each"
            )
        chosen.append((preferred or keys)[0])
    return chosen[0], chosen[1]


def _class_names(folder: Path, key: str, feature: tuple[str, Json]) -> tuple[str, ...]:
    content = feature[1]
    try:
        count = int((content.get('classLabel') or content).get('numClasses') or content.get('num_classes') or 0)
    except (AttributeError, TypeError, ValueError):
        count = 0
    path = folder / f'{key}.labels.txt'
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises where the name is too long)
        if not 2 <= count <= 1_000_000:
            raise _wrong(folder / 'features.json', f'says {count} classes for {printable(key)!r}', 'two or more')
        return tuple(map(str, range(count)))
    try:
        names = tuple(read_text(path).replace('\r\n', '\n').removesuffix('\n').split('\n'))
    except OSError as error:
        raise InputFileError(f'cannot read {path}: {error.strerror}; {_AGAIN}') from None
    if count and len(names) != count:
        raise _wrong(path, f'names {len(names)} classes', f'{count}, one per line')
    if len(names) < 2:
        raise _wrong(path, f'names {len(names)} class', 'two or more')
    if len(set(names)) < len(names):
        raise _wrong(path, f'names {len(names)} classes, {len(set(names))} of them different', 'a name of its own for each')
    return names


def _wrong(path: Path, problem: str, expected: str) -> InputFileError:
    return InputFileError(f'{path} {problem}: expected {expected}; {_AGAIN}')
