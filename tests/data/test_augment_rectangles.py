"""RandomResizedCrop, random erasing and CutMix against Pillow, PyTorch and loops over pixels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from resnet_jax.data.augment import Mixing, mix, random_erasing, random_mixing, random_resized_crop
from resnet_jax.data.augment.rectangles import Box, cutmix_box, erasing_box, resize, resized_crop_box

pytestmark = pytest.mark.usefixtures('quick_compilation')

KEYS = jax.random.split(jax.random.key(0), 2000)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3), np.uint8)


def boxes(function, *arguments):
    """A function of a key as NumPy arrays, for all of KEYS."""
    return jax.device_get(jax.jit(jax.vmap(lambda key: function(key, *arguments)))(KEYS))


def random_rectangles(height, width, count):
    """The whole image, a pixel, a row, a column, and others at random."""
    rng = np.random.default_rng(1)
    rows = [(0, 0, height, width), (5, 7, 1, 1), (3, 0, 1, width), (0, 3, height, 1)]
    while len(rows) < count:
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        rows.append((rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide))
    return Box(*np.array(rows, np.int32).T)


def test_resizing_uint8_as_pillow():
    """Within 1 level, and equal in 99 of 100 values: the others are on the edge of two levels, as 12 pixels that become 24
    make them, and Pillow's fixed point and float32 round them apart."""
    rectangles = random_rectangles(24, 32, len(IMAGES))
    results = jax.jit(jax.vmap(resize))(IMAGES, rectangles)
    assert results.dtype == np.uint8
    expected = [
        Image.fromarray(image[y : y + h, x : x + w]).resize((32, 24), Image.Resampling.BILINEAR)
        for image, y, x, h, w in zip(IMAGES, *rectangles, strict=True)
    ]
    difference = np.asarray(results).astype(int) - np.stack([np.asarray(image) for image in expected])
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


def test_resizing_floats_as_torch():
    rectangles = random_rectangles(24, 32, len(IMAGES))
    floats = (IMAGES / 64 - 2).astype(np.float32)
    results = jax.jit(jax.vmap(resize))(floats, rectangles)
    for image, result, y, x, h, w in zip(floats, np.asarray(results), *rectangles, strict=True):
        crop = torch.tensor(image[y : y + h, x : x + w]).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(crop, (24, 32), mode='bilinear', antialias=True)
        np.testing.assert_allclose(result, expected[0].permute(1, 2, 0), atol=1e-5)


def sides_by_torchvisions_rule(rng, height, width, area, ratio, fits):
    """Draws a rectangle as the loops of torchvision's RandomResizedCrop and RandomErasing do; None if all attempts fail."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        first, second = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if fits(first, second):
            return first, second
    return None


def test_rectangles_of_the_resized_crop_are_distributed_as_torchvisions():
    height, width, area, ratio = 24, 32, (0.08, 1.0), (3 / 4, 4 / 3)
    actual = boxes(resized_crop_box, height, width, *area, ratio)
    assert (actual.top >= 0).all() and (actual.top + actual.height <= height).all()
    assert (actual.left >= 0).all() and (actual.left + actual.width <= width).all()
    rng = np.random.default_rng(2)
    theirs = [
        sides_by_torchvisions_rule(rng, height, width, area, ratio, lambda w, h: 0 < w <= width and 0 < h <= height)
        for _ in range(2000)
    ]
    expected = np.array([sides or (32, 24) for sides in theirs])
    for ours, wide in ((actual.width, expected[:, 0]), (actual.height, expected[:, 1])):
        assert stats.ks_2samp(ours, wide).pvalue > 1e-3
    area_of = actual.width * actual.height / (height * width)
    assert stats.ks_2samp(area_of, expected.prod(1) / (height * width)).pvalue > 1e-3
    # At any place that is left: the share of the free rows above is uniform, but for the whole numbers.
    free = height - actual.height
    above = (actual.top + 0.5) / (free + 1)
    assert stats.kstest(above[free > 8], 'uniform').pvalue > 1e-4


@pytest.mark.parametrize(('height', 'width', 'expected'), [(8, 64, (0, 26, 8, 11)), (64, 8, (26, 0, 11, 8))])
def test_where_no_attempt_fits_the_middle_is_cropped(height, width, expected):
    """By hand: a ratio of 4/3 to a height of 8 makes a width of round(10.67), and a ratio of 3/4 the same upright."""
    actual = boxes(resized_crop_box, height, width, 1.0, 1.0, (3 / 4, 4 / 3))
    assert {tuple(int(value) for value in box) for box in zip(*actual, strict=True)} == {expected}


def test_the_resized_crop_resizes_its_rectangle():
    image = IMAGES[0]
    crops = jax.jit(jax.vmap(functools.partial(random_resized_crop, image=image, smallest=0.3)))(KEYS[:20])
    actual = jax.tree.map(lambda leaf: leaf[:20], boxes(resized_crop_box, 24, 32, 0.3, 1.0, (3 / 4, 4 / 3)))
    resized = jax.jit(jax.vmap(functools.partial(resize, image)))(actual)
    differences = np.abs(np.asarray(crops, int) - np.asarray(resized, int))
    assert differences.max() <= 1 and np.mean(differences > 0) < 0.02  # two programs, which XLA may round differently


def test_erased_rectangles_are_distributed_as_torchvisions():
    height, width, area, ratio = 24, 32, (0.02, 0.33), (0.3, 3.3)
    actual, fits = boxes(erasing_box, height, width, area, ratio)
    assert fits.all() and (actual.top + actual.height <= height).all() and (actual.left + actual.width <= width).all()
    rng = np.random.default_rng(3)
    expected = np.array([
        sides_by_torchvisions_rule(rng, height, width, area, ratio, lambda h, w: h < height and w < width)
        for _ in range(2000)
    ])  # fmt: skip
    for ours, theirs in ((actual.height, expected[:, 0]), (actual.width, expected[:, 1])):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_erasing_zeroes_one_rectangle_of_the_probability_s_share_of_the_images():
    image = np.random.default_rng(4).normal(size=(24, 32, 3)).astype(np.float32)
    run = jax.jit(jax.vmap(functools.partial(random_erasing, image=image, probability=0.3)))
    erased = np.asarray(run(KEYS)) == 0
    hit = erased.any(axis=(1, 2, 3))
    assert 520 <= hit.sum() <= 680  # four standard deviations of 20
    actual, _ = boxes(erasing_box, 24, 32, (0.02, 0.33), (0.3, 3.3))
    for mask, top, left, height, width in [*zip(erased, *actual, strict=True)][:300]:
        expected = np.zeros_like(mask)
        if mask.any():
            expected[top : top + height, left : left + width] = True
        np.testing.assert_array_equal(mask, expected)


def test_the_rectangle_of_cutmix_by_the_formula_of_the_paper():
    """r_w = W sqrt(1 - lambda) around a uniform centre, half of it rounded down, and cut off at the edges."""
    height, width = 24, 32
    for share in (0.0, 0.1, 0.5, 1.0):
        actual = boxes(cutmix_box, height, width, jnp.float32(share))
        half_height, half_width = int(0.5 * math.sqrt(share) * height), int(0.5 * math.sqrt(share) * width)
        expected = {
            (max(y - half_height, 0), max(x - half_width, 0), min(y + half_height, height), min(x + half_width, width))
            for y in range(height)
            for x in range(width)
        }
        corners = {
            (int(top), int(left), int(top + high), int(left + wide)) for top, left, high, wide in zip(*actual, strict=True)
        }
        assert corners <= expected and len(corners) > 0.6 * len(expected)


def mixings(mixup_alpha, cutmix_alpha):
    run = jax.jit(jax.vmap(lambda key: random_mixing(key, 6, 8, mixup_alpha, cutmix_alpha)))
    return jax.device_get(run(KEYS))


def test_cutmix_mixes_labels_by_the_exact_share_of_the_pixels():
    actual = mixings(0.0, 1.0)
    assert set(np.unique(actual.image)) == {0.0, 1.0}
    np.testing.assert_allclose(actual.label, actual.image.mean(axis=(1, 2, 3, 4)), atol=1e-6)
    for kept in actual.image[:, 0, :, :, 0]:  # what is replaced is a rectangle
        rows, columns = np.nonzero((kept == 0).any(1))[0], np.nonzero((kept == 0).any(0))[0]
        assert (kept == 0).sum() == len(rows) * len(columns)


def test_the_share_of_cutmix_is_from_the_beta_distribution():
    """In an image so large that the sides' rounding does not show; where no edge cuts anything off."""
    run = jax.jit(jax.vmap(lambda key: random_mixing(key, 1, 4096, 0.0, 0.7)))
    kept = np.asarray(run(KEYS[:400]).image)[:, 0, 0, :, 0]  # half of a height of 1 is 0, whatever the width
    assert (kept == 1).all()
    shares = jax.vmap(lambda key: jax.random.beta(jax.random.fold_in(key, 1), 0.7, 0.7))(KEYS)
    actual = jax.device_get(jax.jit(jax.vmap(lambda key: random_mixing(key, 512, 512, 0.0, 0.7).label))(KEYS))
    assert (actual >= np.asarray(shares) - 1e-6).all()  # cut off at the edges, less is replaced
    assert stats.kstest(shares, stats.beta(0.7, 0.7).cdf).pvalue > 1e-3


def test_of_mixup_and_cutmix_each_is_used_in_half_of_the_steps_and_as_alone():
    both, mixup, cutmix = mixings(0.4, 1.0), mixings(0.4, 0.0), mixings(0.0, 1.0)
    cut = np.array([np.array_equal(ours, theirs) for ours, theirs in zip(both.image, cutmix.image, strict=True)])
    assert 900 <= cut.sum() <= 1100  # four and a half standard deviations
    np.testing.assert_array_equal(both.label[cut], cutmix.label[cut])
    np.testing.assert_array_equal(both.label[~cut], mixup.label[~cut])
    np.testing.assert_array_equal(
        both.image[~cut], np.broadcast_to(mixup.label[~cut, None, None, None, None], (sum(~cut), 1, 6, 8, 1))
    )
    assert stats.kstest(mixup.label, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_mixing_by_hand():
    batch = {'image': np.ones((2, 2, 2, 1), np.float32), 'label': np.eye(2, dtype=np.float32)}
    other = {'image': np.zeros((2, 2, 2, 1), np.float32), 'label': np.eye(2, dtype=np.float32)[::-1]}
    kept = np.array([[1, 1], [0, 1]], np.float32)
    mixed = mix(batch, other, Mixing(kept[None, :, :, None], np.float32(0.75)))
    np.testing.assert_array_equal(mixed['image'], np.broadcast_to(kept[None, :, :, None], (2, 2, 2, 1)))
    np.testing.assert_array_equal(mixed['label'], [[0.75, 0.25], [0.25, 0.75]])
