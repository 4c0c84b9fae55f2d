"""Reads a data set prepared by tfds or a similar program: `<root>/<name>/<3.x.y>/` in array_record or tfrecord.

The parts that run on every start (`tfds_root`, `find_folder`, `fingerprint`, `class_names`) do not import tfds.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.data.official import is_official, to_records
from resnet_jax.data.sources import IMAGE_SHAPE, Source
from resnet_jax.data.split import Split
from resnet_jax.data.tfrecord import read_records
from resnet_jax.errors import ConfigError, InputFileError, one_line
from resnet_jax.runtime.files import sha256_of
from resnet_jax.runtime.progress import progress
from resnet_jax.runtime.untrusted import check_regular

_AGAIN = 'copy or prepare the folder again'


def tfds_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns `data_dir`, else TFDS_DATA_DIR, else tfds's default; an empty string counts as unset.

    Raises:
      ConfigError: the root is a remote address or the folder of one data set.
    """
    root = os.fspath(data_dir or '') or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    if '://' in root:
        raise ConfigError(f'data_dir {root} is a remote address: expected a local folder; copy the data set to this machine')
    path = Path(os.path.expanduser(root))  # noqa: PTH111 (Path.expanduser raises where there is no home)
    for folder, parent in ((path, path.parent.parent), (find_folder(path.parent, path.name), path.parent)):
        if folder and (folder / 'dataset_info.json').is_file():
            raise ConfigError(f'data_dir {path} is the folder of one data set: expected the root above it; pass {parent}')
    return path


def find_folder(root: Path, name: str) -> Path | None:
    """Returns the folder of the newest 3.x version of `name` under `root`, or None.

    Raises:
      InputFileError: the folder cannot be read.
    """
    try:
        versions = [path for path in (root / name).iterdir() if re.fullmatch(r'3\.\d+\.\d+', path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputFileError(f'cannot read {root / name}: {error.strerror}; change its permissions') from error
    return max(versions, key=lambda path: tuple(map(int, path.name.split('.'))), default=None)


def fingerprint(folder: Path) -> str:
    """Returns a SHA-256 hex digest over the names and contents of the record files.

    Hashes contents, not times: a copy on another machine has the same digest, and damage since the last start is noticed.

    Raises:
      InputFileError: there are no record files, or one cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if re.search(r'\.(array_record|tfrecord)', path.name))
    if not files:
        raise InputFileError(f'{folder} holds no .array_record or .tfrecord files: expected a folder of tfds; {_AGAIN}')
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(f'{path.name} {sha256_of(path)}\n'.encode())
        except OSError as error:
            raise InputFileError(f'cannot read {path}: {error.strerror}; {_AGAIN}') from error
    return digest.hexdigest()


def class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Returns the names in `label.labels.txt`; '0', '1', ... if the folder has no such file.

    Raises:
      InputFileError: the file has another number of names, or two that are the same.
    """
    path = folder / 'label.labels.txt'
    if not path.is_file():
        return tuple(map(str, range(num_classes)))
    names = tuple(path.read_text(encoding='utf-8', errors='replace').splitlines())
    if len(names) != num_classes:
        raise InputFileError(f'{path} names {len(names)} classes: expected {num_classes}, one per line; {_AGAIN}')
    if len(set(names)) < num_classes:
        raise InputFileError(
            f'{path} names {len(set(names))} different classes: expected {num_classes}, one per line; {_AGAIN}'
        )
    return names


def read_folder(folder: Path, source: Source) -> tuple[Split, Split, bool]:
    """Decodes the training and the test split, in the order of the files.

    Returns:
      Both splits, and whether the hashes of their pixels and labels are the official ones. Those of re-encoded copies are not.

    Raises:
      InputFileError: a file is missing, damaged or not this data set; the message names the file.
    """
    splits = _describe(folder, source)
    read = {split: _read_split(split, *splits[split], source) for split in ('train', 'test')}
    official = all(records is not None and is_official(source, split, records) for split, (_, records) in read.items())
    return read['train'][0], read['test'][0], official


def _describe(folder: Path, source: Source) -> dict[str, tuple[str, list[tuple[Path, int]]]]:
    """Returns {split: (file format, [(file, number of records), ...])} after checking tfds's metadata.

    Raises:
      InputFileError: the metadata are missing, damaged or of another data set.
    """
    import tensorflow_datasets as tfds

    info_file = folder / 'dataset_info.json'
    try:
        for path in (*folder.glob('*.json'), *folder.glob('*.labels.txt')):  # tfds would wait for the writer of a pipe
            check_regular(path)
        info = tfds.builder_from_directory(folder).info
        sizes = {split: info.splits[split].num_examples for split in ('train', 'test')}
        file_format = info.file_format.value
        shapes = info.features['image'].shape, info.features['label'].num_classes
    except Exception as error:  # for a missing or damaged file, tfds and the JSON and protobuf parsers may raise anything
        raise InputFileError(
            f'{info_file} or features.json beside it is missing or damaged: {one_line(error)[:200]}; {_AGAIN}'
        ) from error
    if info.name != source.name:
        raise InputFileError(f"{info_file} describes '{info.name}': expected '{source.name}'; {_AGAIN}")
    if shapes != (IMAGE_SHAPE, source.num_classes):
        raise InputFileError(
            f'{folder / "features.json"} describes images of {shapes[0]} in {shapes[1]} classes: '
            f'expected {IMAGE_SHAPE} in {source.num_classes}; {_AGAIN}'
        )
    if file_format not in ('array_record', 'tfrecord'):
        raise InputFileError(f"{info_file} says format '{file_format}': expected array_record or tfrecord; {_AGAIN}")
    expected = {'train': source.num_train, 'test': source.num_test}
    if sizes != expected:
        raise InputFileError(f'{info_file} counts {sizes} images: expected {expected}; {_AGAIN}')
    return {
        split: (
            file_format,
            list(zip(map(Path, info.splits[split].filepaths), info.splits[split].shard_lengths, strict=True)),
        )
        for split in sizes
    }


def _read_split(
    split: str, file_format: str, shards: list[tuple[Path, int]], source: Source
) -> tuple[Split, np.ndarray | None]:
    """Returns a split, and its records in the form and order of the .bin files, or None if this order is unknown.

    Raises:
      InputFileError: a file is missing or damaged, or has another number of records.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    total = sum(length for _, length in shards)
    image = np.empty((total, *IMAGE_SHAPE), np.uint8)
    label = np.empty(total, np.int32)
    every_label = np.zeros((total, len(source.labels)), np.uint8)
    place = np.full(total, -1)
    position = 0
    with progress(f'Decoding {source.name} {split}', total, 'images') as advance:
        for path, length in shards:
            records = _read_shard(path, file_format)
            if len(records) != length:
                raise InputFileError(f'{path} holds {len(records)} records: expected {length}; {_AGAIN}')
            for i, record in enumerate(records):
                try:
                    feature = tf_example_pb2.Example.FromString(record).features.feature
                    image[position] = _decode_image(feature['image'].bytes_list.value[0])
                    label[position] = _check_label(feature['label'].int64_list.value[0], source.num_classes)
                    for column, each in enumerate(source.labels):
                        if feature[each.key].int64_list.value:  # a copy may lack the coarse label
                            every_label[position, column] = feature[each.key].int64_list.value[0] % 256
                    place[position] = _place(feature['id'].bytes_list.value, split)
                except Exception as error:  # Pillow may raise anything on a damaged image
                    raise InputFileError(f'{path}: record {i}: {one_line(error)[:200]}; {_AGAIN}') from error
                position += 1
                advance(1)
    if not np.array_equal(np.sort(place), np.arange(total)):
        return Split(image, label), None
    order = np.argsort(place)
    return Split(image, label), to_records(image[order], list(every_label[order].T))


def official_order(folder: Path, source: Source, split: str) -> np.ndarray:
    """Returns the position in the .bin files of each example of a split, int64 [n], from the ids that tfds stores.

    Raises:
      InputFileError: a file is missing or damaged, or the examples have no such ids.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    file_format, shards = _describe(folder, source)[split]
    places = [
        _place(tf_example_pb2.Example.FromString(record).features.feature['id'].bytes_list.value, split)
        for path, _ in shards
        for record in _read_shard(path, file_format)
    ]
    if sorted(places) != list(range(len(places))):
        raise InputFileError(f'the examples in {folder} have no ids of {source.name}, which say their order; {_AGAIN}')
    return np.array(places)


def _place(ids: Sequence[bytes], split: str) -> int:
    """Returns the number in an id such as b'train_00042', or -1."""
    match = re.fullmatch(rb'%s_(\d{5})' % split.encode(), ids[0]) if ids else None
    return int(match[1]) if match else -1


def _read_shard(path: Path, file_format: str) -> list[bytes]:
    try:
        check_regular(path)
        if file_format == 'tfrecord':
            return read_records(path)
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(path))
        try:
            records: list[bytes] = reader.read_all()
            return records
        finally:
            reader.close()
    except (OSError, RuntimeError) as error:  # the array_record reader checks its hashes and raises RuntimeError
        raise InputFileError(f'{path} is missing or damaged: {one_line(error)[:200]}; {_AGAIN}') from error


def _decode_image(encoded: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=('PNG', 'JPEG')) as image:
        shape = (image.height, image.width, len(image.getbands()))
        if shape != IMAGE_SHAPE:  # before any pixel is decoded
            raise ValueError(f'the image is {shape}, expected {IMAGE_SHAPE}')
        return np.asarray(image)


def _check_label(label: int, num_classes: int) -> int:
    if not 0 <= label < num_classes:
        raise ValueError(f'label {label}, expected 0 to {num_classes - 1}')
    return label
