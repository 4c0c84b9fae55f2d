import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from resnet_jax.data import Split
from resnet_jax.errors import ConfigError
from resnet_jax.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, shot_noise
from resnet_jax.evaluation.robustness import evaluate_corruptions
from resnet_jax.evaluation.warping import Randomness, convolve, gaussian_blur, motion_blur, plasma, sample, zoom


def photographs(n=6, channels=3, size=32):
    """Smooth shapes of many colours with some edges: what corruptions can be seen on."""
    rng = np.random.default_rng(4)
    maps = scipy.ndimage.gaussian_filter(rng.random((n, size, size, channels)), (0, 3, 3, 0))
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    maps[:, size // 4 : size // 2, size // 4 :] *= 0.5
    return np.rint(255 * maps).astype(np.uint8)


def distance(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_the_list_is_the_papers():
    assert list(CORRUPTIONS) == [
        *('gaussian_noise', 'shot_noise', 'impulse_noise'),
        *('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
        *('snow', 'frost', 'fog', 'brightness'),
        *('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
    ]
    assert all(len(strengths) == len(SEVERITIES) for _, strengths in CORRUPTIONS.values())


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_it_changes_the_images_more_at_the_last_severity_and_is_repeatable(name):
    images = photographs()
    mild, severe = (corrupt(images, name, severity) for severity in (1, 5))
    assert mild.dtype == severe.dtype == np.uint8 and mild.shape == severe.shape == images.shape
    assert distance(mild, images) > 0
    if name != 'elastic_transform':  # whose severities trade shift against displacement
        assert distance(mild, images) < distance(severe, images)
    np.testing.assert_array_equal(corrupt(images, name, 5), severe)


@pytest.mark.parametrize('name', CORRUPTIONS)
@pytest.mark.parametrize('shape', [(8, 1), (32, 3)])
def test_an_image_is_corrupted_alike_in_any_block(name, shape):
    images = photographs(5, shape[1], shape[0])
    whole = corrupt(images, name, 3, first=10)
    np.testing.assert_array_equal(corrupt(images[3:], name, 3, first=13), whole[3:])


def test_two_images_get_different_noise():
    images = np.full((2, 32, 32, 3), 128, np.uint8)
    first, second = corrupt(images, 'gaussian_noise', 5).astype(float)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_gaussian_noise_has_the_papers_deviation():
    noise = corrupt(np.full((40, 32, 32, 3), 128, np.uint8), 'gaussian_noise', 5) / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.10, rel=0.01) and abs(noise.mean()) < 0.001
    assert abs(scipy.stats.skew(noise.ravel())) < 0.03 and abs(scipy.stats.kurtosis(noise.ravel())) < 0.05


def test_shot_noise_is_poisson():
    """Photon counts of one grey level against scipy's Poisson probabilities."""
    level, photons = 51, 50  # 10 photons on average
    x = np.full((30, 32, 32, 3), level / 255, np.float32)
    counts = np.rint(shot_noise(x, photons, Randomness(1, range(30))) * photons).astype(int).ravel()
    observed = np.bincount(counts, minlength=31)[:31]
    expected = scipy.stats.poisson.pmf(np.arange(31), photons * level / 255) * counts.size
    usual = expected > 5
    assert scipy.stats.chisquare(observed[usual], expected[usual] * observed[usual].sum() / expected[usual].sum()).pvalue > 1e-3
    assert not shot_noise(np.zeros((1, 4, 4, 3), np.float32), 50, Randomness(1, range(1))).any()


def test_impulse_noise_hits_its_share():
    noisy = corrupt(np.full((40, 32, 32, 3), 128, np.uint8), 'impulse_noise', 5)
    assert (noisy == 0).mean() == pytest.approx(0.035, abs=0.002) == (noisy == 255).mean()
    assert set(np.unique(noisy)) == {0, 128, 255}


def test_brightness_and_contrast_by_hand():
    pixel = np.zeros((1, 2, 2, 3), np.uint8)
    pixel[0, 0, 0] = (100, 40, 0)
    bright = corrupt(pixel, 'brightness', 4)  # the largest grows by 0.2 * 255: times 1.51
    np.testing.assert_array_equal(bright[0, 0, 0], [151, 60, 0])
    np.testing.assert_array_equal(bright[0, 1, 1], [51] * 3)
    grey = corrupt(pixel, 'contrast', 5)  # the mean of red is 25: 25 + 0.15 * 75
    assert grey[0, 0, 0, 0] == 36 and grey[0, 1, 1, 0] == 21  # 25 - 0.15 * 25


@pytest.mark.parametrize('sigma', [0.05, 0.4, 1.0, 6.4])
def test_blur_is_scipys(sigma):
    images = photographs(2) / np.float32(255)
    expected = scipy.ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0), mode='reflect')
    np.testing.assert_allclose(gaussian_blur(images, sigma), expected, atol=1e-5)


def test_convolution_and_sampling_are_scipys():
    images = photographs(2) / np.float32(255)
    kernel = np.outer([1, 2, 1], [1, 3, 1]) / 20
    expected = scipy.ndimage.convolve(images.astype(float), kernel[None, :, :, None], mode='mirror')
    np.testing.assert_allclose(convolve(images, kernel), expected, atol=1e-6)
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(-3, 34, (2, 2, 32, 32))
    for image, r, c, actual in zip(images, rows, columns, sample(images, rows, columns), strict=True):
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(image[..., channel].astype(float), [r, c], order=1, mode='mirror')
            np.testing.assert_allclose(actual[..., channel], expected, atol=1e-5)


def test_zoom_enlarges_the_middle():
    ramp = np.broadcast_to(np.arange(33, dtype=np.float32)[:, None], (1, 33, 33))
    np.testing.assert_allclose(zoom(ramp, 2.0)[0, :, 5], 16 + (np.arange(33) - 16) / 2, atol=1e-5)
    np.testing.assert_allclose(zoom(ramp, 1.0), ramp, atol=1e-5)


def test_motion_blur_moves_along_its_direction_only():
    image = np.zeros((2, 9, 9, 1), np.float32)
    image[:, 4, 4] = 1
    blurred = motion_blur(image, 2, 1.5, np.array([0.0, 90.0]))[..., 0]
    assert blurred.sum(axis=(1, 2)) == pytest.approx([1, 1])
    assert (blurred[0][4] > 0).sum() == 5 and not blurred[0][:4].any()
    np.testing.assert_allclose(blurred[1], blurred[0].T, atol=1e-7)


def test_plasma_is_a_map_from_0_to_1_and_rougher_with_less_decay():
    rough, smooth = (plasma(Randomness(1, range(4)), 20, decay) for decay in (1.2, 3))
    assert rough.shape == (4, 32, 32)
    for actual in (rough, smooth):
        assert actual.min() == 0 and actual.max() == 1
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_errors_are_counted_over_every_image():
    images = photographs(7)
    split = Split(images, np.array([0, 1, 0, 1, 0, 1, 0], np.int32))

    def answer(batch):  # class 1 if any pixel is black or white, as impulse noise makes them
        extreme = ((batch == 0) | (batch == 255)).reshape(len(batch), -1).mean(axis=1) > 0.005
        return np.stack([~extreme, extreme], axis=1).astype(float)

    seen = []
    actual = evaluate_corruptions(answer, split, lambda *progress: seen.append(progress))
    assert actual['clean_error'] == 3 / 7 and actual['count'] == 7
    assert actual['errors']['impulse_noise'] == [4 / 7] * 5 and actual['errors']['contrast'] == [3 / 7] * 5
    assert actual['errors'].keys() == CORRUPTIONS.keys()
    assert actual['mean_corruption_error'] == pytest.approx(np.mean(list(actual['errors'].values())))
    assert seen[-1] == (5 * len(CORRUPTIONS), 5 * len(CORRUPTIONS))


@pytest.mark.parametrize(('name', 'severity'), [('rain', 1), ('fog', 0), ('fog', 6)])
def test_what_does_not_exist_is_refused(name, severity):
    with pytest.raises(ConfigError, match='expected'):
        corrupt(photographs(1), name, severity)
