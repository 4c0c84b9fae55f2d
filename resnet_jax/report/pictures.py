"""Pictures in the page: pixels as data URIs, and overlays of explanations."""

import base64
import io

import numpy as np
from PIL import Image

_LARGE_SHEET = 100_000  # pixels
_LARGEST = 128  # largest side in pixels; a gallery shows pictures at 120


def data_uri(pixels: np.ndarray) -> str:
    """Returns uint8 pixels `[height, width, channels]` as a data URI of a PNG or, for a large sheet, of a smaller JPEG."""
    return _encode(_image(pixels), 'JPEG' if pixels.shape[0] * pixels.shape[1] > _LARGE_SHEET else 'PNG')


def thumbnail(pixels: np.ndarray) -> str:
    """Like `data_uri`, but shrinks large pictures and encodes them as JPEG, so that a page of photographs stays small."""
    image = _image(pixels)
    if max(image.size) <= _LARGEST:
        return _encode(image)
    image.thumbnail((_LARGEST, _LARGEST))
    return _encode(image, 'JPEG')


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns an image in grey with the heat over it in orange, uint8 `[height, width, 3]`.

    Args:
      pixels: uint8 `[height, width, channels]`.
      heat: uint8 `[height, width]`; 0 adds no orange.
    """
    share = 0.75 * heat[..., None] / 255
    grey = pixels.mean(axis=-1, keepdims=True)
    return np.asarray(np.rint(0.8 * grey * (1 - share) + share * np.array([255.0, 120.0, 0.0])), np.uint8)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _encode(image: Image.Image, format_: str = 'PNG') -> str:
    buffer = io.BytesIO()
    image.save(buffer, format_, **({'quality': 85} if format_ == 'JPEG' else {'optimize': True}))
    return f'data:image/{format_.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'
