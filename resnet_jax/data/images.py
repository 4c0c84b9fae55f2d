"""Converts image files of any size and mode to the images a network was trained on."""

import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT

from resnet_jax.errors import InputFileError

# Pillow's other readers are rarely used and less safe; the one for EPS starts Ghostscript.
FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM')


INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


def read_image(path: str | Path, shape: Sequence[int], crop: float = 1.0, interpolation: str = 'bicubic') -> np.ndarray:
    """Reads the centre square of an image file, resized.

    Takes the first frame of an animation and puts transparent images on white. The type of the numbers decides what is white:
    255, 65535, the largest integer of the type, or 1.0.

    Args:
      shape: (height, width, channels) with height = width and 1 channel (grey) or 3 (RGB).
      crop: side of the square as a share of the image's shorter side; 224 / 256 is torchvision's Resize(256), CenterCrop(224).
      interpolation: one of INTERPOLATIONS.

    Returns:
      uint8 of this shape.

    Raises:
      InputFileError: the path is not a readable image file.
    """
    path = Path(path)
    height, width, channels = shape
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputFileError(f'{path} is not a file; expected an image ({", ".join(FORMATS)})')
        with warnings.catch_warnings():
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                file.draft('RGB', (4 * width, 4 * height))  # lets JPEG decode at a fraction of the size
                ImageOps.exif_transpose(file, in_place=True)
                white = _white(file)
                # Resize in the original mode: a converted copy of the largest image allowed takes 0.4 GB.
                image = _resizable(file)
                image = ImageOps.fit(image, (width, height), INTERPOLATIONS[interpolation], bleed=(1 - crop) / 2)
                image = _to_mode(image, 'L' if channels == 1 else 'RGB', white)
                return np.asarray(image, np.uint8).reshape(height, width, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputFileError(
            f'{path} has too many pixels; expected at most {Image.MAX_IMAGE_PIXELS:,}: scale it down'
        ) from None
    except InputFileError:
        raise
    except FileNotFoundError:
        raise InputFileError(f'{path} does not exist; expected an image file') from None
    except Exception as error:  # Pillow may raise anything on a damaged file
        reason = 'not an image' if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise InputFileError(f'{path} cannot be read ({reason}); expected an image ({", ".join(FORMATS)})') from None


def _resizable(image: Image.Image) -> Image.Image:
    """Returns the image in a mode that Pillow can interpolate, with its transparency."""
    if image.mode.startswith('I;'):
        return image.convert('I')
    if image.mode in ('PA', 'La', 'RGBa') or 'transparency' in image.info:
        return image.convert('RGBA')
    if image.mode in ('1', 'P'):
        return image.convert('L' if image.mode == '1' else 'RGB')
    return image


def _white(image: Image.Image) -> float:
    """Returns the value of white. It follows from the type of the numbers alone: Pillow's own conversion would clip at 255."""
    if image.mode == 'F':
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise InputFileError(
                f'{getattr(image, "filename", "image")} has floating-point values that are not from 0 to 1: scale them, or '
                'save 8 or 16 bits'
            )
        return 1
    if image.mode == 'I' and isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, signed = image.tag_v2.get(BITSPERSAMPLE, (32,))[0], image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 2
        return float(2 ** (bits - signed) - 1)
    return 65535 if image.mode.startswith('I') else 255


def _to_mode(image: Image.Image, mode: str, white: float) -> Image.Image:
    if image.mode in ('I', 'F'):
        values = np.asarray(image, np.float64)
        image = Image.fromarray((255 * np.clip(values / white, 0, 1)).round().astype(np.uint8))
    if image.mode == 'LA':
        image = image.convert('RGBA')
    if image.mode == 'RGBA':
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(mode)
