"""A sheet of images in rows and columns, as a PNG."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_jax.runtime.files import write_atomically

_SMALLEST, _LARGEST = 64, 96  # sides in pixels, to which an image is enlarged or shrunk
_GAP = 4


def write_sheet(images: np.ndarray, path: Path) -> Path:
    """Writes images as a PNG, with small images enlarged by whole factors and large images shrunk; returns the path.

    Args:
      images: uint8 `[rows, columns, height, width, channels]`; unless there are 3 channels, the first is shown in grey.
    """
    rows, columns, height, width, channels = images.shape
    pixels = images if channels == 3 else np.repeat(images[..., :1], 3, axis=-1)
    enlarged = max(1, -(-_SMALLEST // max(height, width)))
    shrunk = max(1.0, max(height, width) / _LARGEST)
    size = max(1, round(width * enlarged / shrunk)), max(1, round(height * enlarged / shrunk))
    filter_ = Image.Resampling.NEAREST if shrunk == 1.0 else Image.Resampling.BILINEAR
    sheet = Image.new('RGB', (columns * (size[0] + _GAP) + 2 * _GAP, rows * (size[1] + _GAP) + _GAP), 'white')
    for row in range(rows):
        for column in range(columns):
            left = _GAP + column * (size[0] + _GAP) + (_GAP if column else 0)  # the first column stands apart
            cell = Image.fromarray(pixels[row, column]).resize(size, filter_)
            sheet.paste(cell, (left, _GAP + row * (size[1] + _GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, 'PNG')
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, buffer.getvalue())
