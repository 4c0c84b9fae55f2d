"""Fifteen common corruptions at five severities, after Hendrycks and Dietterich, arXiv:1903.12261.

The list, the strengths and the order are from CIFAR-10-C (github.com/hendrycks/robustness, make_cifar_c.py). The images are
computed here with NumPy and Pillow and differ from those of CIFAR-10-C: compare errors only with errors on the images here.
Known differences: frost is drawn (ridges of fractal clouds), not cut from photographs; motion blur moves by whole pixels; glass
blur swaps pixels with all eight neighbours; the elastic transform interpolates once. The random numbers of an image depend only
on the corruption, the severity and the image's index. Images are equal on every machine; only the last bits of JPEG depend on
Pillow's libjpeg.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.warping import Randomness, convolve, gaussian_blur, motion_blur, plasma, sample, zoom

SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(x: np.ndarray, sigma: float, random: Randomness) -> np.ndarray:
    """Adds normal noise to every channel of every pixel."""
    return x + np.float32(sigma) * random.normal(*x.shape[1:])


def shot_noise(x: np.ndarray, photons: float, random: Randomness) -> np.ndarray:
    """Replaces every value by a Poisson-distributed number of photons; the mean for white is `photons`."""
    draw = random.uniform(*x.shape[1:])
    levels = np.rint(255 * x).astype(int)
    result = np.empty_like(x)
    for level in np.unique(levels):
        mean = photons * level / 255
        counts = np.arange(int(mean + 12 * math.sqrt(mean) + 12))
        logs = -mean + counts * math.log(mean) - np.cumsum(np.log(np.maximum(counts, 1))) if mean else -1e9 * counts
        chosen = levels == level
        result[chosen] = np.searchsorted(np.cumsum(np.exp(logs)), draw[chosen], side='right') / photons
    return result


def impulse_noise(x: np.ndarray, share: float, random: Randomness) -> np.ndarray:
    """Sets a share of the values to 0 or to 1, half each."""
    draw = random.uniform(*x.shape[1:])
    return np.where(draw < share / 2, 0, np.where(draw < share, 1, x)).astype(np.float32)


def defocus_blur(x: np.ndarray, strength: tuple[float, float], random: Randomness) -> np.ndarray:
    """Convolves with a disk whose edge is softened by a 3x3 Gaussian; strength is (radius, sigma) in pixels."""
    radius, soft = strength
    reach = math.floor(radius) + 1
    distance = np.arange(-reach, reach + 1)
    disk = (distance[:, None] ** 2 + distance**2 <= radius**2).astype(np.float64)
    edge = np.exp(-0.5 * (np.array([-1, 0, 1]) / soft) ** 2)
    edge /= edge.sum()
    softened = sum(
        edge[i + 1] * edge[j + 1] * np.roll(disk, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)
    )  # nothing wraps around: the disk does not reach the border
    return convolve(x, softened / disk.sum())


def glass_blur(x: np.ndarray, strength: tuple[float, int], random: Randomness) -> np.ndarray:
    """Blurs, swaps every pixel with a neighbour `strength[1]` times, and blurs again."""
    sigma, times = strength
    x = gaussian_blur(x, sigma)
    n, height, width = x.shape[:3]
    image = np.arange(n)
    for _ in range(times):
        moves = random.integers(-1, 1, height, width, 2)
        for row in range(height - 2, 0, -1):
            for column in range(width - 2, 0, -1):
                other = image, row + moves[:, row, column, 0], column + moves[:, row, column, 1]
                kept = x[other]
                x[other] = x[:, row, column]
                x[:, row, column] = kept
    return gaussian_blur(x, sigma)


def motion(x: np.ndarray, strength: tuple[int, float], random: Randomness) -> np.ndarray:
    """Blurs along a random direction from -45 to 45 degrees; strength is (radius, sigma)."""
    return motion_blur(x, *strength, random.uniform(low=-45, high=45))


def zoom_blur(x: np.ndarray, largest: float, random: Randomness) -> np.ndarray:
    """Averages the image and its enlargements by 1.00, 1.01, ... up to but excluding `largest`."""
    factors = 1 + 0.01 * np.arange(round((largest - 1) / 0.01))
    return (x + sum(zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def snow(x: np.ndarray, strength: tuple[float, float, float, float, int, float, float], random: Randomness) -> np.ndarray:
    """Whitens the image and adds motion-blurred flakes and the same flakes rotated by 180 degrees.

    Strength is the mean and standard deviation of the noise that makes the flakes, the zoom factor of the noise, its threshold,
    the radius and sigma of the motion blur, and the weight of the original image.
    """
    mean, deviation, factor, threshold, radius, sigma, share = strength
    flakes = zoom(mean + deviation * random.normal(*x.shape[1:3]), factor)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1).astype(np.float32)
    flakes = motion_blur(flakes, radius, sigma, random.uniform(low=-135, high=-45))[..., None]
    weights = np.array([0.299, 0.587, 0.114], np.float32) if x.shape[-1] == 3 else np.full(x.shape[-1], 1 / x.shape[-1])
    grey = (x * weights).sum(axis=-1, keepdims=True)
    changed: np.ndarray = share * x + (1 - share) * np.maximum(x, 1.5 * grey + 0.5) + flakes + flakes[:, ::-1, ::-1]
    return changed


def frost(x: np.ndarray, strength: tuple[float, float], random: Randomness) -> np.ndarray:
    """Multiplies the image by strength[0] and adds crystals, bluish ridges of fractal clouds, times strength[1]."""
    height, width = x.shape[1:3]
    clouds = plasma(random, max(height, width), 1.4)[:, :height, :width]
    haze = plasma(random, max(height, width), 2.0)[:, :height, :width]
    ridges = (1 - np.abs(2 * clouds - 1)) ** 3
    crystals = np.clip(0.35 + 0.4 * haze + 0.5 * ridges, 0, 1)[..., None]
    tint = np.array([0.86, 0.94, 1.0], np.float32) if x.shape[-1] == 3 else np.ones(x.shape[-1], np.float32)
    changed: np.ndarray = strength[0] * x + strength[1] * crystals * tint
    return changed


def fog(x: np.ndarray, strength: tuple[float, float], random: Randomness) -> np.ndarray:
    """Adds clouds times strength[0] and rescales to the image's original maximum."""
    height, width = x.shape[1:3]
    clouds = plasma(random, max(height, width), strength[1])[:, :height, :width, None]
    top = x.max(axis=(1, 2, 3), keepdims=True)
    changed: np.ndarray = (x + strength[0] * clouds) * top / np.maximum(top + strength[0], 1e-6)
    return changed


def brightness(x: np.ndarray, added: float, random: Randomness) -> np.ndarray:
    """Raises the value (V of HSV): the largest channel by `added`, the others in proportion."""
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + np.float32(added), 1)
    changed: np.ndarray = np.where(value > 0, x * raised / np.maximum(value, 1e-6), raised)
    return changed


def contrast(x: np.ndarray, share: float, random: Randomness) -> np.ndarray:
    """Keeps a share of each channel's distance from its mean."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    changed: np.ndarray = (x - mean) * np.float32(share) + mean
    return changed


def elastic(x: np.ndarray, strength: tuple[float, float, float], random: Randomness) -> np.ndarray:
    """Applies a random affine map of three points and a smooth random displacement.

    Strength is the size and smoothness (sigma) of the displacement and the largest shift of a point, relative to the height.
    """
    n, height, width = x.shape[:3]
    size, sigma, shift = (part * height for part in strength)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
    middle, reach = np.array([height // 2, width // 2]), min(height, width) // 3
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + random.uniform(3, 2, low=-shift, high=shift)
    # The matrix maps (row, column, 1) of the result to its source in the image.
    affine = np.linalg.solve(np.concatenate([moved, np.ones((n, 3, 1))], axis=2), np.broadcast_to(corners, moved.shape))
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1).reshape(-1, 3).astype(np.float64) @ affine
    places = places.reshape(n, height, width, 2)
    if size:
        for axis in (0, 1):
            places[..., axis] += size * gaussian_blur(random.uniform(height, width, low=-1, high=1), sigma, truncate=3)
    return sample(x, places[..., 0], places[..., 1])


def pixelate(x: np.ndarray, share: float, random: Randomness) -> np.ndarray:
    """Shrinks to a share of the side and enlarges again, both with Pillow's box filter."""
    small, full = (max(1, int(x.shape[2] * share)), max(1, int(x.shape[1] * share))), (x.shape[2], x.shape[1])
    return _through_pillow(x, lambda image: image.resize(small, Image.Resampling.BOX).resize(full, Image.Resampling.BOX))


def jpeg(x: np.ndarray, quality: int, random: Randomness) -> np.ndarray:
    """Compresses as JPEG with libjpeg's `quality` and 4:2:0 subsampling."""

    def compress(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, 'JPEG', quality=quality)
        return Image.open(buffer, formats=['JPEG'])

    return _through_pillow(x, compress)


def _through_pillow(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    grey = x.shape[-1] == 1
    images = np.rint(255 * x).astype(np.uint8)
    changed = [np.asarray(change(Image.fromarray(image[..., 0] if grey else image))) for image in images]
    return np.stack(changed).reshape(x.shape).astype(np.float32) / 255


# A corruption's position seeds its random stream: append only.
CORRUPTIONS: dict[str, tuple[Callable[..., np.ndarray], tuple[object, ...]]] = {
    'gaussian_noise': (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    'shot_noise': (shot_noise, (500, 250, 100, 75, 50)),
    'impulse_noise': (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    'defocus_blur': (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    'glass_blur': (glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    'motion_blur': (motion, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    'zoom_blur': (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    'snow': (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    'frost': (frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    'fog': (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    'brightness': (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    'contrast': (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    'elastic_transform': (
        elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    'pixelate': (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    'jpeg_compression': (jpeg, (80, 65, 58, 50, 40)),
}


def corrupt(images: np.ndarray, name: str, severity: int, first: int = 0) -> np.ndarray:
    """Corrupts images.

    Args:
      images: uint8 `[n, height, width, channels]`, 1 or 3 channels.
      name: one of `CORRUPTIONS`.
      severity: 1 to 5.
      first: the index of images[0] in its split. The random numbers of an image depend on its index.

    Returns:
      uint8, with the shape of `images`.

    Raises:
      ConfigError: the name or the severity is unknown.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f'unknown corruption {name!r}; expected one of {", ".join(CORRUPTIONS)}')
    if severity not in SEVERITIES:
        raise ConfigError(f'severity {severity!r}; expected 1 to 5')
    function, strengths = CORRUPTIONS[name]
    random = Randomness(8 * list(CORRUPTIONS).index(name) + severity, range(first, first + len(images)))
    x = images.astype(np.float32) / 255
    changed = function(x, strengths[severity - 1], random)
    return np.asarray(np.rint(255 * np.clip(changed, 0, 1)), np.uint8)
