import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import (
    augment,
    color_jitter,
    cutout,
    mirrored_in_epoch,
    normalize,
    random_crop,
    random_flip,
    tta_logits,
)
from resnet_jax.errors import ConfigError

KEYS = jax.random.split(jax.random.key(0), 400)


@pytest.fixture(autouse=True, scope='module')
def quick_compilation():
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


def for_each_key(function, image, **kwargs):
    """Returns the function's results for one image and each of KEYS."""
    return np.asarray(jax.jit(jax.vmap(functools.partial(function, image=jnp.array(image), **kwargs)))(KEYS))


OPTIONS = ('mean', 'std', 'crop_padding', 'crop_mode', 'flip', 'brightness', 'contrast', 'cutout_size', 'dtype')
_augment = jax.jit(augment, static_argnames=OPTIONS)


def augmented(keys, batch, **kwargs):
    return np.asarray(_augment(keys, batch, **{'mean': (0.0, 0.0), 'std': (1.0, 1.0), **kwargs}))


def images(height=5, width=6, channels=2, dtype=np.uint8):
    """One image whose every value is different and none is 0."""
    return np.arange(1, height * width * channels + 1).reshape(height, width, channels).astype(dtype)


def crops_by_loop(image, padding):
    """Returns {(top, left): crop} for every offset, by a loop over pixels."""
    height, width, _ = image.shape
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = np.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    y, x = row + top - padding, column + left - padding
                    if 0 <= y < height and 0 <= x < width:
                        crop[row, column] = image[y, x]
            crops[top, left] = crop
    return crops


def test_crop_is_one_of_the_crops_of_the_zero_padded_image_and_reaches_each():
    image, padding = images(), 2
    expected = {crop.tobytes(): offset for offset, crop in crops_by_loop(image, padding).items()}
    crops = for_each_key(random_crop, image, padding=padding)
    assert crops.dtype == np.uint8
    seen = [expected[crop.tobytes()] for crop in crops]  # a KeyError here is a crop that no offset gives
    assert set(seen) == set(expected.values())
    counts = np.bincount([5 * top + left for top, left in seen])
    assert counts.min() > 2 and counts.max() < 40, 'each of 25 offsets is expected 16 times in 400'


def test_reflecting_crop_is_one_of_the_crops_of_numpys_reflecting_pad_and_reaches_each():
    image, padding = images(), 2
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode='reflect')
    expected = {padded[y : y + 5, x : x + 6].tobytes(): (y, x) for y in range(5) for x in range(5)}
    crops = for_each_key(random_crop, image, padding=padding, mode='reflect')
    assert crops.dtype == np.uint8 and len(expected) == 25
    assert {expected[crop.tobytes()] for crop in crops} == set(expected.values())
    same_offsets = for_each_key(random_crop, image, padding=padding)
    black = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    for crop, other in zip(crops, same_offsets, strict=True):
        y, x = expected[crop.tobytes()]
        np.testing.assert_array_equal(other, black[y : y + 5, x : x + 6])


def test_alternating_flip_is_random_in_epoch_0_and_then_by_turns():
    run, examples = jax.jit(mirrored_in_epoch), np.arange(400, dtype=np.int32)
    epochs = [np.asarray(run(KEYS[0], examples, jnp.int32(epoch))) for epoch in range(5)]
    assert epochs[0].dtype == bool and 160 <= epochs[0].sum() <= 240  # four standard deviations of 10
    for epoch, mirrored in enumerate(epochs):
        np.testing.assert_array_equal(mirrored, epochs[0] ^ bool(epoch % 2))
    np.testing.assert_array_equal(run(KEYS[0], examples[::-3], jnp.int32(2)), epochs[0][::-3])  # of the example alone
    agree = (np.asarray(run(KEYS[1], examples, jnp.int32(0))) == epochs[0]).sum()
    assert 160 <= agree <= 240, 'another key chooses independently'


def test_augment_mirrors_the_images_it_is_told_to():
    batch, mirror = np.stack([images()] * 3), np.array([True, False, True])
    result = augmented(KEYS[:3], batch, flip=True, mirrored=mirror)
    for one, mirrored in zip(result, mirror, strict=True):
        np.testing.assert_allclose(one, images()[:, :: -1 if mirrored else 1] / 255, atol=1e-6)


def test_jitter_shifts_then_scales_all_pixels_of_an_image_alike():
    image = np.random.default_rng(0).normal(size=(5, 6, 2)).astype(np.float32)
    results = for_each_key(color_jitter, image, brightness=0.3, contrast=0.2)
    scales = (results[:, 0, 0, 0] - results[:, 4, 5, 1]) / (image[0, 0, 0] - image[4, 5, 1])
    shifts = results[:, 0, 0, 0] / scales - image[0, 0, 0]
    np.testing.assert_allclose(results, (image + shifts[:, None, None, None]) * scales[:, None, None, None], atol=1e-5)
    for values, centre, half in ((shifts, 0, 0.3), (scales, 1, 0.2)):
        uniform = (values - centre) / half
        assert -1.0001 < uniform.min() < -0.97 and 0.97 < uniform.max() < 1.0001
        assert abs(uniform.mean()) < 4 / np.sqrt(3 * 400) and abs(uniform.std() - 1 / np.sqrt(3)) < 0.06
    assert abs(np.corrcoef(shifts, scales)[0, 1]) < 0.2


def test_jitter_comes_after_the_normalisation_and_leaves_the_other_choices_alone():
    batch = np.stack([images()] * 40)
    run = functools.partial(augmented, KEYS[:40], batch, crop_padding=1, crop_mode='reflect', flip=True, std=(0.1, 0.1))
    plain, jittered = run(), run(brightness=0.5, contrast=0.5)
    assert not np.array_equal(plain, jittered)
    for one, other in zip(plain, jittered, strict=True):
        slope, intercept = np.polyfit(one.ravel(), other.ravel(), 1)
        np.testing.assert_allclose(other, slope * one + intercept, atol=1e-4)
        assert 0.5 <= slope <= 1.5 and abs(intercept / slope) <= 0.5 + 1e-4
    only_brighter = run(brightness=0.5) - plain
    assert np.ptp(only_brighter, axis=(1, 2, 3)).max() < 1e-5 < np.ptp(only_brighter)
    only_contrast = run(contrast=0.5) / plain
    assert np.ptp(only_contrast, axis=(1, 2, 3)).max() < 1e-5 < np.ptp(only_contrast)


def test_jitter_is_computed_in_float32_and_what_is_cut_out_stays_at_the_mean():
    run = functools.partial(augmented, KEYS, np.stack([images()] * len(KEYS)), brightness=0.14, contrast=0.13)
    result = run(dtype=jnp.bfloat16)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, run().astype(jnp.bfloat16))
    cut = run(cutout_size=2)
    assert (cut == 0).any(axis=(1, 2, 3)).all() and ((cut == 0) | (cut == run())).all()


def test_flip_mirrors_the_columns_of_half_of_the_images():
    image = images()
    flipped = for_each_key(random_flip, image)
    mirrored = [np.array_equal(one, image[:, ::-1]) for one in flipped]
    same = [np.array_equal(one, image) for one in flipped]
    assert flipped.dtype == np.uint8
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 160 <= sum(mirrored) <= 240  # four standard deviations of 10


@pytest.mark.parametrize('size', [1, 2, 3, 4])
def test_cutout_blanks_a_square_around_a_centre_inside_the_image(size):
    image = images(dtype=np.float32)
    height, width, _ = image.shape
    expected = {}
    for y in range(height):
        for x in range(width):
            blank = image.copy()
            for row in range(y - size // 2, y - size // 2 + size):
                for column in range(x - size // 2, x - size // 2 + size):
                    if 0 <= row < height and 0 <= column < width:
                        blank[row, column] = 0
            expected[blank.tobytes()] = y, x
    cut = for_each_key(cutout, image, size=size)
    assert cut.dtype == np.float32
    assert {expected[one.tobytes()] for one in cut} == set(expected.values())


def test_cutout_larger_than_the_image_blanks_it():
    assert not for_each_key(cutout, images(dtype=np.float32), size=100).any()


def test_normalize_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    result = normalize(image, (0.5, 0.25, 0.2), (0.5, 0.25, 0.1))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, [[[-1.0, 3.0, 0.0]]], atol=1e-6)


def test_normalize_computes_in_float32_and_rounds_once():
    image = np.arange(256, dtype=np.uint8)[:, None]
    result = normalize(image, (0.4914,), (0.2470,), jnp.bfloat16)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, normalize(image, (0.4914,), (0.2470,)).astype(jnp.bfloat16))


def test_augment_without_options_normalises_only():
    batch = np.stack([images(), images()[::-1]])
    result = augment(KEYS[:2], batch, mean=(0.1, 0.2), std=(0.3, 0.4))
    np.testing.assert_allclose(result, normalize(batch, (0.1, 0.2), (0.3, 0.4)), atol=1e-6)


def test_augment_pads_with_black_and_cuts_out_with_the_mean():
    white = np.full((400, 5, 6, 2), 255, np.uint8)
    run = functools.partial(augmented, KEYS, white, mean=(0.5, 0.5), std=(0.25, 0.25))
    assert set(np.unique(run(crop_padding=2).round(6))) == {-2.0, 2.0}
    assert set(np.unique(run(cutout_size=2).round(6))) == {0.0, 2.0}


def test_augment_gives_each_image_its_own_choices_from_its_own_key():
    batch = np.stack([images()] * len(KEYS))
    run = functools.partial(augmented, crop_padding=2, flip=True, cutout_size=2)
    together = run(KEYS, batch)
    assert len({one.tobytes() for one in together}) > 200
    np.testing.assert_array_equal(together[::-1], run(KEYS[::-1], batch))


def test_crop_flip_and_cutout_choose_independently():
    """Had they one key in common, the offset or the centre would tell whether the image is flipped."""
    image = images()
    batch = np.stack([image] * len(KEYS))
    flips = np.array([one[0, 0, 0] > one[0, -1, 0] for one in augmented(KEYS, batch, flip=True)])
    crops = augmented(KEYS, batch, crop_padding=1)
    centres = augmented(KEYS, batch, cutout_size=1)
    for result in (crops, centres):
        for value in {one.tobytes() for one in result}:
            chosen = np.array([one.tobytes() == value for one in result])
            if chosen.sum() >= 12:
                assert 0 < flips[chosen].mean() < 1


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_augment_returns_the_dtype_asked_for(dtype):
    run = functools.partial(augment, crop_padding=1, flip=True, cutout_size=1, dtype=dtype, mean=(0, 0), std=(1, 1))
    result = jax.eval_shape(run, KEYS[:2], np.stack([images()] * 2))
    assert result.dtype == dtype and result.shape == (2, 5, 6, 2)


def logits_by_hand(image, weight, tta):
    """Of one image, view by view, with an explicit weight for each."""

    def logits(view):
        return np.tanh(view.reshape(-1) @ weight)  # not linear, else the mean of the views would do

    def pair(view):
        return (logits(view) + logits(view[:, ::-1])) / 2

    if tta == 'none':
        return logits(image)
    if tta == 'mirror':
        return pair(image)
    height, width, _ = image.shape
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode='reflect')
    up_left, down_right = padded[:height, :width], padded[2:, 2:]
    return 0.5 * pair(image) + 0.25 * pair(up_left) + 0.25 * pair(down_right)


@pytest.mark.parametrize('tta', ['none', 'mirror', 'mirror_translate'])
def test_logits_are_averaged_over_the_views_with_the_stated_weights(tta):
    rng = np.random.default_rng(0)
    batch, weight = rng.normal(size=(7, 5, 6, 2)), rng.normal(size=(60, 3)) / 4
    expected = [logits_by_hand(image, weight, tta) for image in batch]
    network = jnp.array(weight, jnp.float32)
    run = jax.jit(lambda images: tta_logits(lambda view: jnp.tanh(view.reshape(len(view), -1) @ network), images, tta))
    result = run(jnp.array(batch, jnp.float32))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_unknown_views_are_refused():
    with pytest.raises(ConfigError, match="tta is 'flip'; expected one of none, mirror, mirror_translate"):
        tta_logits(lambda images: images, jnp.zeros((1, 2, 2, 1)), 'flip')
