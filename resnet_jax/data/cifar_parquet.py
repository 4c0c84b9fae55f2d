"""Reads CIFAR from tables in the layout of Hugging Face, such as uoft-cs/cifar10 and uoft-cs/cifar100."""

from pathlib import Path

import numpy as np

from resnet_jax.data.images import image_header, read_image
from resnet_jax.data.official import Contents
from resnet_jax.data.parquet import Rows, find_tables
from resnet_jax.data.parquet_columns import class_names, find_columns, read_column
from resnet_jax.data.sources import IMAGE_SHAPE, Source
from resnet_jax.errors import InputFileError
from resnet_jax.runtime.progress import progress


def read_tables(path: Path, source: Source) -> Contents:
    """Returns all images and labels in the order of the rows.

    Raises:
      InputFileError: a table is missing, damaged or of another data set.
    """
    tables = find_tables(path)
    column = find_columns(tables['train'][0]).image
    image: dict[str, np.ndarray] = {}
    labels: dict[str, dict[str, np.ndarray]] = {}
    names: dict[str, list[str]] = {}
    sizes = {'train': source.num_train, 'test': source.num_test}
    for split in sizes:
        count = sum(sum(file.rows) for file in tables.get(split, []))
        if count != sizes[split]:
            raise InputFileError(f'{path} has {count} {split} images: expected {sizes[split]} of {source.name}')
        labels[split] = {}
        for label in source.labels:
            values = np.concatenate([read_column(file, label.column) for file in tables[split]])
            if values.dtype.kind != 'i' or values.min() < 0 or values.max() >= label.num_classes:
                expected = f'integers from 0 to {label.num_classes - 1}'
                raise InputFileError(f'{path}: column {label.column!r} is no label of {source.name}: expected {expected}')
            labels[split][label.key] = values.astype(np.uint8)
            known = class_names(tables[split][0], label.column)
            names[label.key] = list(known or map(str, range(label.num_classes)))
        rows = Rows(tables[split], column, labels[split]['label'])
        image[split] = np.empty((sizes[split], *IMAGE_SHAPE), np.uint8)
        with progress(f'Reading {source.name} {split}', sizes[split], 'images') as advance:
            for i in range(sizes[split]):
                data, where = rows.read(i), rows.describe(i)
                if image_header(data, where) != IMAGE_SHAPE:
                    raise InputFileError(f'{where}: the image is {image_header(data, where)}: expected {IMAGE_SHAPE}')
                image[split][i] = read_image(data, IMAGE_SHAPE, name=where)
                advance(1)
    return Contents(image, labels, names)
