"""Converts image files of any size and mode to images like those that a network was trained on."""

import contextlib
import functools
import io
import math
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from resnet_jax.config import TrainConfig
from resnet_jax.errors import InputFileError

# Excludes readers that start another program (EPS: Ghostscript) and formats without photographs.
FORMATS = (
    *('PNG', 'JPEG', 'MPO', 'GIF', 'BMP', 'DIB', 'TIFF', 'WEBP', 'PPM', 'AVIF', 'JPEG2000', 'TGA', 'PCX', 'PSD', 'SGI', 'ICO'),
    *('ICNS', 'DDS', 'QOI', 'XBM', 'XPM', 'IM'),
)
EXPECTED = 'expected an image, such as PNG, JPEG, GIF, BMP, TIFF, WEBP or PPM'

INTERPOLATIONS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


# How the stored pixels become the displayed ones, by EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height

# Black in the modes in which 0 is not black, or not opaque.
_BLACK = {'RGBA': (0, 0, 0, 255), 'LA': (0, 255), 'CMYK': (0, 0, 0, 255), 'YCbCr': (0, 128, 128), 'LAB': (0, 128, 128)}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class BrokenImageError(InputFileError):
    """A file is not an image that can be decoded."""


class TooManyPixelsError(BrokenImageError):
    """An image has more pixels than may be decoded."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns the `FORMATS` that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def suffixes() -> frozenset[str]:
    """Returns the file name suffixes of `formats()`, in lower case and with the dot."""
    known = formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def read_image(
    source: str | Path | bytes,
    shape: Sequence[int],
    resize: str = TrainConfig.resize,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    name: str | None = None,
    most_pixels: int | None = None,
) -> np.ndarray:
    """Reads an image file, resized.

    Takes the first frame of an animation and puts transparent images on white. White is the maximum of the numeric type: 255,
    65535, the largest integer, or 1.0.

    Args:
      source: a path, or the bytes of the file.
      shape: (height, width, channels) with 1 channel (grey) or 3 (RGB).
      resize: 'crop' for the centre with the proportions of `shape`, 'squash' for the whole image with other proportions, 'pad'
        for the whole image between black bars.
      crop: share of the centre, with resize='crop'; 224 / 256 is torchvision's Resize(256) and CenterCrop(224).
      interpolation: one of INTERPOLATIONS.
      name: the name of the file in errors; by default its path.
      most_pixels: the largest number of pixels of the file; by default, and at most, Pillow's `Image.MAX_IMAGE_PIXELS`.

    Returns:
      A uint8 array with the shape `shape`.

    Raises:
      TooManyPixelsError: the image has more pixels.
      BrokenImageError: the source is not an image that can be decoded.
      InputFileError: the source cannot be read.
    """
    height, width, channels = shape
    with _open(source, name, most_pixels) as file:
        image, box = _displayed(file, (4 * width, 4 * height))
        white = _white(image)
        # Resize in the original mode: a converted copy of the largest allowed image takes 0.4 GB.
        image = _resized(_resizable(image, white), (width, height), resize, crop, interpolation, box)
        image = _to_mode(image, 'L' if channels == 1 else 'RGB', white)
        return np.asarray(image, np.uint8).reshape(height, width, channels)


def read_crop(
    source: str | Path | bytes,
    shape: Sequence[int],
    choose: Callable[[int, int], tuple[int, int, int, int]],
    name: str | None = None,
) -> np.ndarray:
    """Reads a rectangle of an image file, resized as torchvision's RandomResizedCrop does: bilinear, with antialiasing.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the rectangle then still has twice the height and width of `shape`.

    Args:
      source, shape, name: see `read_image`.
      choose: function from the height and width of the displayed image to (top, left, height, width) of the rectangle.

    Raises:
      BrokenImageError: the source is not an image that can be decoded.
      InputFileError: the source cannot be read.
    """
    height, width, channels = shape
    with _open(source, name) as file:
        full_width, full_height = _displayed_size(file)
        top, left, rows, columns = choose(full_height, full_width)
        factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(rows / height, columns / width) >= 2 * f)
        image, (first, upper, last, lower) = _displayed(file, (full_width // factor, full_height // factor))
        white = _white(image)
        image = _resizable(image, white)
        if image.size == (full_width, full_height):
            # Not resize(box=...): its filter would reach over the edges of the rectangle.
            image = image.crop((left, top, left + columns, top + rows)).resize((width, height), Image.Resampling.BILINEAR)
        else:
            x, y = (last - first) / full_width, (lower - upper) / full_height
            right, bottom = min(first + x * (left + columns), last), min(upper + y * (top + rows), lower)
            box = (first + x * left, upper + y * top, right, bottom)
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        image = _to_mode(image, 'L' if channels == 1 else 'RGB', white)
        return np.asarray(image, np.uint8).reshape(height, width, channels)


def image_header(source: str | Path | bytes, name: str | None = None) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the displayed image, without decoding it; 1 channel if it is grey.

    Raises:
      BrokenImageError: the source is not an image that can be decoded.
      InputFileError: the source cannot be read.
    """
    with _open(source, name) as file:
        width, height = _displayed_size(file)
        grey = file.mode in ('1', 'L', 'LA', 'La', 'F') or file.mode.startswith('I')
        return height, width, 1 if grey else 3


def _orientation(file: Image.Image) -> int:
    """Returns the EXIF orientation; 1, as stored, if there is none or the EXIF data are damaged."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):  # Pillow turns these itself
        return 1
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in _TURNS else 1
    except Exception:  # whatever Pillow raises for damaged data; the pixels are sound
        return 1


def _displayed_size(file: Image.Image) -> tuple[int, int]:
    """Returns (width, height) of the displayed image; the camera may have stored it turned."""
    width, height = file.size
    return (height, width) if _orientation(file) in _SIDEWAYS else (width, height)


def _displayed(file: Image.Image, wanted: tuple[int, int]) -> tuple[Image.Image, Box]:
    """Returns the image, turned as its EXIF orientation says, and the box that holds the picture.

    JPEG is decoded at 1/2, 1/4 or 1/8 of its size if it then still has the size `wanted`, (width, height). The picture then
    ends within the last row and column of pixels, if its size is not a multiple of the fraction.
    """
    orientation = _orientation(file)
    drafted = file.draft('RGB', wanted[::-1] if orientation in _SIDEWAYS else wanted)
    image = file.transpose(_TURNS[orientation]) if orientation > 1 else file
    width, height = drafted[1][2:] if drafted else file.size
    if orientation in _SIDEWAYS:
        width, height = height, width
    left = image.size[0] - width if orientation in (2, 3, 6, 7) else 0
    top = image.size[1] - height if orientation in (3, 4, 7, 8) else 0
    return image, (left, top, left + width, top + height)


@contextlib.contextmanager
def _open(source: str | Path | bytes, name: str | None, most_pixels: int | None = None) -> Iterator[Image.Image]:
    """Opens an image; turns every error in the body into an InputFileError."""
    shown = name or ('the image' if isinstance(source, bytes) else str(source))
    most = min(filter(None, (most_pixels, Image.MAX_IMAGE_PIXELS)), default=None)
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(Path(source).stat().st_mode):
            raise InputFileError(f'{shown} is not a file; {EXPECTED}')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # damaged EXIF data
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as file:
                if most and math.prod(file.size) > most:
                    raise Image.DecompressionBombError
                yield file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixelsError(f'{shown} has too many pixels; expected at most {most:,}: scale it down') from None
    except (InputFileError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputFileError(f'{shown} does not exist; expected an image file') from None
    except Exception as error:  # Pillow may raise anything on a damaged file
        reason = _unidentified(source) if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise BrokenImageError(f'{shown} cannot be read ({reason}); {EXPECTED}') from None


def _unidentified(source: str | Path | bytes) -> str:
    """Returns why Pillow does not know the format of a file; this may be a TIFF with an unsupported numeric type."""
    with contextlib.suppress(OSError):
        head = source[:4] if isinstance(source, bytes) else _head(Path(source))
        if head in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
            return 'a TIFF that is damaged or of an unsupported kind, such as 64-bit floating point: convert it to 16 bits'
    return 'not an image'


def _head(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(4)


def resize_array(image: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Resizes a uint8 image `[height, width, channels]` with 1 or 3 channels to `size`, (height, width)."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(_resized(picture, size[::-1], resize)).reshape(*size, image.shape[-1])


def _resized(
    image: Image.Image,
    size: tuple[int, int],
    resize: str,
    crop: float = 1.0,
    interpolation: str = 'bicubic',
    box: Box | None = None,
) -> Image.Image:
    """Resizes the part of an image in a box to `size`, (width, height); for the other arguments see `read_image`."""
    method, (left, top, right, bottom) = INTERPOLATIONS[interpolation], box or (0, 0, *image.size)
    width, height = right - left, bottom - top
    if resize == 'squash':
        return image.resize(size, method, (left, top, right, bottom))
    if resize == 'crop':  # the values of PIL.ImageOps.fit
        left, top = left + (1 - crop) / 2 * width, top + (1 - crop) / 2 * height
        width, height = width - 2 * ((1 - crop) / 2 * width), height - 2 * ((1 - crop) / 2 * height)
        ratio = size[0] / size[1]
        columns, rows = (ratio * height, height) if width / height >= ratio else (width, width / ratio)
        left, top = left + (width - columns) * 0.5, top + (height - rows) * 0.5
        return image.resize(size, method, (left, top, left + columns, top + rows))
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(scale * width)), max(1, round(scale * height))
    inside = image.resize(inner, method, (left, top, right, bottom))
    padded = Image.new(image.mode, size, _BLACK.get(image.mode, 0))
    padded.paste(inside, (round((size[0] - inner[0]) * 0.5), round((size[1] - inner[1]) * 0.5)))
    return padded


def _resizable(image: Image.Image, white: float) -> Image.Image:
    """Returns the image in a mode that Pillow can interpolate, with its transparency, and with `white` as its largest value."""
    inverted, unsigned = _white_is_zero(image), white == 2**32 - 1
    if inverted or unsigned:
        values = np.asarray(image)
        values = values.view(np.uint32) if unsigned else values  # Pillow stores them as int32
        return Image.fromarray((np.float32(white) - values if inverted else values).astype(np.float32))
    if image.mode.startswith('I') and isinstance(transparent := image.info.get('transparency'), int):  # PNG
        values = np.asarray(image.convert('I'))
        return Image.fromarray(np.where(values == transparent, np.int32(white), values))
    if image.mode.startswith('I;'):
        return image.convert('I')
    if image.mode in ('PA', 'La', 'RGBa') or 'transparency' in image.info:
        return image.convert('RGBA')
    if image.mode in ('1', 'P'):
        return image.convert('L' if image.mode == '1' else 'RGB')
    return image


def _white(image: Image.Image) -> float:
    """Returns the value of white for the image's numeric type; Pillow's own conversion would clip at 255."""
    if image.mode == 'F':
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError('its floating-point values are not from 0 to 1: scale them, or save 8 or 16 bits')
        return 1
    if image.mode.startswith('I') and isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, signed = image.tag_v2.get(BITSPERSAMPLE, (32,))[0], image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 2
        return float(2 ** (bits - signed) - 1)
    return 65535 if image.mode.startswith('I') else 255


def _white_is_zero(image: Image.Image) -> bool:
    """Returns whether the image is a TIFF in which 0 is white; Pillow has inverted those with up to 8 bits already."""
    wide = image.mode == 'F' or image.mode.startswith('I')
    return wide and isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _to_mode(image: Image.Image, mode: str, white: float) -> Image.Image:
    if image.mode in ('I', 'F'):
        values = np.asarray(image, np.float64)
        image = Image.fromarray((255 * np.clip(values / white, 0, 1)).round().astype(np.uint8))
    if image.mode == 'LA':
        image = image.convert('RGBA')
    if image.mode == 'RGBA':
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(mode)
