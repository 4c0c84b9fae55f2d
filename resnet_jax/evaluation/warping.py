"""Building blocks of image corruptions: per-image randomness, blurs and resampling, with NumPy only.

Images are float32 `[n, height, width, channels]` from 0 to 1; maps are float32 `[n, height, width]`.
"""

import math

import numpy as np


class Randomness:
    """Random numbers for each image of a block; they depend only on the stream and the image's index.

    So the corruption of an image does not depend on its block. Uses raw Philox integers, because the streams of
    np.random.Generator may change between NumPy versions.
    """

    def __init__(self, stream: int, indices: range):
        self._generators = [np.random.Philox(key=np.array([stream, i], np.uint64)) for i in indices]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Returns float32 `[n, *shape]` in [low, high)."""
        count = math.prod(shape)
        raw = np.stack([generator.random_raw(count) for generator in self._generators])
        unit = ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(len(raw), *shape)
        return np.float32(low) + np.float32(high - low) * unit

    def normal(self, *shape: int) -> np.ndarray:
        """Returns standard normal float32 `[n, *shape]`, by the Box-Muller method."""
        first, second = self.uniform(*shape), self.uniform(*shape)
        numbers: np.ndarray = np.sqrt(-2 * np.log(1 - first)) * np.cos(np.float32(2 * math.pi) * second)
        return numbers

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Returns int64 `[n, *shape]` from low to high, inclusive."""
        return low + (self.uniform(*shape) * (high - low + 1)).astype(np.int64)


def along_rows_and_columns(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Applies matrices `[height, height]` and `[width, width]` to the two axes of every image."""
    mixed = np.einsum('ij,njwc->niwc', rows, images, optimize=True)
    result: np.ndarray = np.einsum('ij,nhjc->nhic', columns, mixed, optimize=True)
    return result


def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Returns the matrix that blurs `size` points by a Gaussian, reflected at the ends (d c b a | a b c d | d c b a)."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    matrix = np.zeros((size, size))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        place = (np.arange(size) + offset) % (2 * size)
        np.add.at(matrix, (np.arange(size), np.minimum(place, 2 * size - 1 - place)), weight)
    return matrix.astype(np.float32)


def gaussian_blur(images: np.ndarray, sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Blurs both axes of images or maps."""
    four = images if images.ndim == 4 else images[..., None]
    rows, columns = (gaussian_matrix(size, sigma, truncate) for size in four.shape[1:3])
    return along_rows_and_columns(four, rows, columns).reshape(images.shape)


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Returns the matrix that enlarges the middle of `size` points to `size` points, with linear interpolation."""
    middle = (size - 1) / 2
    place = middle + (np.arange(size) - middle) / factor
    below = np.clip(np.floor(place).astype(int), 0, size - 2)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), below] = 1 - (place - below)
    matrix[np.arange(size), below + 1] = place - below
    return matrix.astype(np.float32)


def zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """Enlarges the middle of every image or map."""
    four = images if images.ndim == 4 else images[..., None]
    rows, columns = (zoom_matrix(size, factor) for size in four.shape[1:3])
    return along_rows_and_columns(four, rows, columns).reshape(images.shape)


def convolve(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves every channel with a symmetric kernel of odd sides, reflected at the edges (d c b | a b c d | c b a)."""
    height, width = images.shape[1:3]
    tall, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(images, [(0, 0), (tall, tall), (wide, wide), (0, 0)], mode='reflect')
    result = np.zeros_like(images)
    for (i, j), weight in np.ndenumerate(kernel):
        if weight:
            result += np.float32(weight) * padded[:, i : i + height, j : j + width]
    return result


def motion_blur(images: np.ndarray, radius: int, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """Averages every image with copies moved in the image's direction, weighted by half a Gaussian.

    Args:
      images: images or maps; the edge is repeated.
      radius: the number of copies is 2 * radius + 1.
      sigma: standard deviation of the Gaussian, in pixels.
      degrees: `[n]`, direction for each image; 0 for a motion to the right.
    """
    four = images if images.ndim == 4 else images[..., None]
    n, height, width = four.shape[:3]
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weights = weights[weights > 1e-4]
    angle = np.deg2rad(degrees.astype(np.float64))
    result, image = np.zeros_like(four), np.arange(n)[:, None, None]
    for step, weight in enumerate(weights / weights.sum()):
        down, right = np.rint(step * np.sin(angle)).astype(int), np.rint(step * np.cos(angle)).astype(int)
        rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)[:, None, :]
        result += np.float32(weight) * four[image, rows, columns]
    return result.reshape(images.shape)


def sample(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Samples every image at the places `rows`, `columns`, float `[n, height, width]`; linear, with reflected edges."""
    n, height, width = images.shape[:3]
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    top, left = np.minimum(rows.astype(int), height - 2), np.minimum(columns.astype(int), width - 2)
    down, right = (rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)
    image = np.arange(n)[:, None, None]
    upper = images[image, top, left] * (1 - right) + images[image, top, left + 1] * right
    lower = images[image, top + 1, left] * (1 - right) + images[image, top + 1, left + 1] * right
    between: np.ndarray = upper * (1 - down) + lower * down
    return between


def _reflect(place: np.ndarray, size: int) -> np.ndarray:
    place = np.abs(place) % (2 * (size - 1))
    reflected: np.ndarray = np.minimum(place, 2 * (size - 1) - place)
    return reflected


def plasma(random: Randomness, size: int, decay: float) -> np.ndarray:
    """Returns clouds from 0 to 1, `[n, side, side]`, by the diamond-square algorithm.

    Args:
      size: side is the smallest power of two that is at least `size` and at least 2.
      decay: the amplitude of each finer scale is 1 / decay^2 of the previous one.
    """
    side = 2 ** max(1, math.ceil(math.log2(size)))
    clouds: np.ndarray = np.zeros_like(random.uniform(1, 1))
    amplitude = 1.0
    while clouds.shape[1] < side:
        n, count = clouds.shape[:2]
        corners = (clouds + np.roll(clouds, -1, 1) + np.roll(clouds, -1, 2) + np.roll(clouds, (-1, -1), (1, 2))) / 4
        centres = corners + amplitude * random.uniform(count, count, low=-1, high=1)
        across = (clouds + np.roll(clouds, -1, 2) + centres + np.roll(centres, 1, 1)) / 4
        across = across + amplitude * random.uniform(count, count, low=-1, high=1)
        down = (clouds + np.roll(clouds, -1, 1) + centres + np.roll(centres, 1, 2)) / 4
        down = down + amplitude * random.uniform(count, count, low=-1, high=1)
        finer = np.empty((n, 2 * count, 2 * count), np.float32)
        finer[:, ::2, ::2], finer[:, 1::2, 1::2], finer[:, ::2, 1::2], finer[:, 1::2, ::2] = clouds, centres, across, down
        clouds, amplitude = finer, amplitude / decay**2
    clouds = clouds - clouds.min(axis=(1, 2), keepdims=True)
    clouds = clouds / clouds.max(axis=(1, 2), keepdims=True)
    return clouds
