"""Every operation against Pillow's own, pixel by pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from resnet_jax.data.augment import augment, operations, policies
from resnet_jax.data.augment.color import hsv_to_rgb, random_hue, random_saturation, rgb_to_hsv, turn_hue

pytestmark = pytest.mark.usefixtures('quick_compilation')

TABLES = {'randaugment': policies.randaugment_space, 'trivialaugment': policies.trivialaugment_space}
# From torchvision.transforms.RandAugment and TrivialAugmentWide: the largest magnitudes.
LARGEST = {
    'randaugment': {'shear': 0.3, 'shift': 150 / 331, 'degrees': 30, 'factor': 0.9, 'bits': 4},
    'trivialaugment': {'shear': 0.99, 'shift': 32, 'degrees': 135, 'factor': 0.99, 'bits': 6},
}
NAMES = (
    *('identity', 'shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate', 'brightness', 'color', 'contrast'),
    *('sharpness', 'posterize', 'solarize', 'autocontrast', 'equalize'),
)
ROUNDED = ('brightness', 'color', 'contrast', 'sharpness')  # a float32 product, which other compilers round otherwise


def pictures(count, height, width, channels, seed=0):
    """Noise, noise of few levels, flat areas, dull ones, in turn; the last one has a single colour."""
    rng = np.random.default_rng(seed)
    kinds = [
        lambda: rng.integers(0, 256, (height, width, channels)),
        lambda: 7 + 40 * rng.integers(0, 6, (height, width, channels)),
        lambda: rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels)).repeat(4, 0).repeat(4, 1)[:height, :width],
        lambda: rng.integers(60, 180, (height, width, channels)),
    ]
    images = np.stack([kinds[i % 4]() for i in range(count)]).astype(np.uint8)
    images[-1] = 90
    return images


def pillow_image(array):
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])


def by_pillow(name, array, policy, place, sign):
    """An operation at magnitude `place` of 30, in a direction."""
    image, largest = pillow_image(array), LARGEST[policy]
    height, width, _ = array.shape
    share = place / 30

    def moved(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    def shifted(size):
        return int(sign * share * largest['shift'] * (size if policy == 'randaugment' else 1))

    factor = 1 + sign * share * largest['factor']
    enhancers = {'brightness': 'Brightness', 'color': 'Color', 'contrast': 'Contrast', 'sharpness': 'Sharpness'}
    if name in enhancers:
        result = getattr(ImageEnhance, enhancers[name])(image).enhance(factor)
    else:
        result = {
            'identity': lambda: image,
            'shear_x': lambda: moved(1, sign * share * largest['shear'], 0, 0, 1, 0),
            'shear_y': lambda: moved(1, 0, 0, sign * share * largest['shear'], 1, 0),
            'translate_x': lambda: moved(1, 0, -shifted(width), 0, 1, 0),
            'translate_y': lambda: moved(1, 0, 0, 0, 1, -shifted(height)),
            'rotate': lambda: image.rotate(sign * share * largest['degrees'], Image.Resampling.NEAREST),
            'posterize': lambda: ImageOps.posterize(image, 8 - round(share * largest['bits'])),
            'solarize': lambda: ImageOps.solarize(image, 255 - share * 255),
            'autocontrast': lambda: ImageOps.autocontrast(image),
            'equalize': lambda: ImageOps.equalize(image),
        }[name]()
    return np.asarray(result).reshape(array.shape)


def stacked(rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


@pytest.mark.parametrize(('policy', 'height', 'width', 'channels'), [
    ('randaugment', 32, 32, 3),
    ('trivialaugment', 19, 24, 3),
    ('trivialaugment', 8, 8, 1),
])  # fmt: skip
def test_every_operation_at_every_magnitude_and_in_both_directions_as_pillow(policy, height, width, channels):
    """Equal, but: of a blend, 1 in 200 values may differ by 1 (Pillow's product is not fused with the addition); and
    autocontrast may be higher by 1, where Pillow's float64 comes out just below an integer and is rounded down."""
    space = TABLES[policy](height, width)
    assert len(space) == len(NAMES) and {len(magnitudes) for magnitudes in space} == {31}
    cases = [
        (name, place, sign, space[i][place][sign < 0])
        for i, name in enumerate(NAMES)
        for place in range(31)
        for sign in (1, -1)
    ]
    images = pictures(len(cases), height, width, channels)
    results = jax.jit(jax.vmap(operations.transform))(images, stacked([operation for *_, operation in cases]))
    assert results.dtype == np.uint8
    differences = {name: [] for name in NAMES}
    for (name, place, sign, _), image, result in zip(cases, images, np.asarray(results), strict=True):
        differences[name].append(result.astype(int) - by_pillow(name, image, policy, place, sign))
    for name, values in differences.items():
        difference = np.stack(values)
        if name in ROUNDED:
            assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.005, name
        elif name == 'autocontrast':
            assert set(np.unique(difference)) <= {0, 1}, name
        else:
            assert not difference.any(), name


def test_equalize_by_sort_which_a_gpu_uses_as_pillow():
    images = pictures(40, 16, 24, 3, seed=1)
    counts = jax.jit(jax.vmap(operations._counts_below_by_sort))(images)
    np.testing.assert_array_equal(counts, jax.jit(jax.vmap(operations._counts_below_by_scatter))(images))
    for image, count in zip(images, np.asarray(counts), strict=True):
        histogram = np.stack(pillow_image(image).histogram()).reshape(3, 256).T
        np.testing.assert_array_equal(count, np.cumsum(histogram, axis=0) - histogram)


def test_only_the_program_for_a_cpu_has_a_scatter():
    """With everything that can be done to an image."""
    options = {'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'flip': True, 'brightness': 0.1, 'contrast': 0.1, 'cutout_size': 2}
    options |= {'saturation': 0.4, 'hue': 0.1, 'auto_augment': 'randaugment', 'random_erasing_prob': 0.5}
    run = jax.jit(functools.partial(augment, **options, resized_crop_area=0.3, dtype=jnp.bfloat16))
    arguments = jax.random.split(jax.random.key(0), 4), jax.ShapeDtypeStruct((4, 8, 8, 3), np.uint8)
    assert 'scatter' in run.trace(*arguments).lower(lowering_platforms=('cpu',)).as_text()
    assert 'scatter' not in run.trace(*arguments).lower(lowering_platforms=('cuda',)).as_text()


@pytest.mark.parametrize('policy', TABLES)
def test_operations_are_drawn_alike_and_independently(policy):
    """With a table whose values say which row they are: multiply the brightness by 0, 1/16, ..."""
    table = policies.randaugment(8, 8, 9) if policy == 'randaugment' else policies.trivialaugment(8, 8)
    rows = len(table.kind)
    assert rows == 14 * (2 if policy == 'randaugment' else 2 * 31)
    marked = stacked([operations.operation(operations.BRIGHTNESS, (row % 14) / 16) for row in range(rows)])
    keys, white = jax.random.split(jax.random.key(0), 2800), jnp.full((1, 1, 1), 240, jnp.uint8)
    once, twice = (
        np.asarray(jax.jit(jax.vmap(lambda key, n=n: policies.random_operations(key, white, marked, n)))(keys)).ravel()
        for n in (1, 2)
    )
    assert stats.chisquare(np.bincount(once // 15, minlength=14)).pvalue > 1e-3
    second = twice[once == 240 // 16 * 13]  # those that first got 13/16
    assert set(np.unique(second)) == {int(195 * row / 16) for row in range(14)}


def test_saturation_as_pillow():
    images, factors = pictures(24, 16, 16, 3), np.linspace(0, 3, 24).astype(np.float32)
    results = np.asarray(jax.jit(jax.vmap(operations.saturate))(images, factors)).astype(int)
    expected = [ImageEnhance.Color(pillow_image(a)).enhance(float(f)) for a, f in zip(images, factors, strict=True)]
    difference = results - np.stack([np.asarray(one) for one in expected])
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.005


def every_colour():
    """4096 colours: all of 16 levels, which include the extremes; and as many at random."""
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    return np.concatenate([grid, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)])


def test_hue_saturation_and_value_as_pillow():
    """Equal, but for the hue of 1 in 200 colours, which differs by 1 where Pillow's mixture of float32 and float64 comes out
    on the other side of an integer. The way back is equal for these colours."""
    colours = every_colour()
    ours = np.stack(jax.jit(rgb_to_hsv)(colours), axis=-1)
    theirs = np.asarray(Image.fromarray(colours).convert('HSV')).astype(int)
    np.testing.assert_array_equal(ours[..., 2], theirs[..., 2])
    np.testing.assert_array_equal(ours[..., 1], theirs[..., 1])
    wrong = ours[..., 0] - theirs[..., 0]
    assert np.abs(wrong).max() <= 1 and (wrong != 0).mean() < 0.005
    back = jax.jit(hsv_to_rgb)(*np.moveaxis(theirs, -1, 0))
    np.testing.assert_array_equal(back, np.asarray(Image.fromarray(theirs.astype(np.uint8), 'HSV').convert('RGB')))


@pytest.mark.parametrize('steps', [-127, -31, 1, 90, 127])
def test_hue_is_turned_as_torchvision_turns_it_in_pillow(steps):
    colours = every_colour()
    hue, saturation, value = Image.fromarray(colours).convert('HSV').split()
    turned = Image.fromarray(np.asarray(hue) + np.array(steps).astype(np.uint8))
    expected = np.asarray(Image.merge('HSV', (turned, saturation, value)).convert('RGB')).astype(int)
    difference = np.abs(np.asarray(turn_hue(colours, steps)).astype(int) - expected)
    assert difference.max() <= 6 and (difference != 0).mean() < 0.004  # a step of the hue is 6 levels of a colour


def test_saturation_and_hue_are_uniform_in_their_range():
    keys = jax.random.split(jax.random.key(1), 400)
    red = jnp.array([[[200, 100, 100]]], jnp.uint8)
    greens = np.asarray(jax.jit(jax.vmap(lambda key: random_saturation(key, red, 0.5)))(keys))[:, 0, 0, 1]
    grey = 130  # its luma: (19595 * 200 + 45941 * 100) / 65536
    factors = (grey - greens.astype(float)) / (grey - 100)
    assert stats.kstest(factors, 'uniform', (0.5, 1.0)).pvalue > 1e-3
    pure = jnp.array([[[255, 0, 0]]], jnp.uint8)
    turned = np.asarray(jax.jit(jax.vmap(lambda key: random_hue(key, pure, 1 / 6)))(keys))[:, 0, 0]
    assert (turned[:, 0] >= 254).all() and turned[:, 1].max() > 230 and turned[:, 2].max() > 230  # yellow to magenta
    assert stats.kstest((turned[:, 1].astype(float) - turned[:, 2]) / 255, 'uniform', (-1, 2)).pvalue > 1e-3
