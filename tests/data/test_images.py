import os

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.images import read_image
from resnet_jax.errors import InputFileError

SHAPE = (8, 8, 3)


def save(tmp_path, image, name='image.png', **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(pixels)), SHAPE), pixels)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_every_mode_of_png_gives_the_same_grey(tmp_path, mode):
    if mode == 'I;16':
        image = Image.fromarray(np.full((20, 20), 65535, np.uint16))
    else:
        image = Image.new('RGB', (20, 20), 'white').convert(mode)
    assert image.mode == mode
    path = save(tmp_path, image)
    np.testing.assert_array_equal(read_image(path, SHAPE), np.full(SHAPE, 255))
    np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), 255))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    path = save(tmp_path, Image.fromarray(np.full((8, 8), 32768, np.uint16)))
    np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), 128))


WHITE = {'uint16': 65535, 'int16': 32767, 'int32': 2**31 - 1, 'float32': 1.0}


@pytest.mark.parametrize('kind', WHITE)
def test_the_type_decides_what_is_white_and_not_the_content(tmp_path, kind):
    for share in (0, 0.01, 0.25, 1):
        pixels = np.full((8, 8), share * WHITE[kind]).astype(kind)
        path = write_tiff(tmp_path / 'a.tif', pixels)
        np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), round(255 * share)))


def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path):
    for value in (10, 255, 256):  # Pillow reads a PGM of more than 8 bits as 32 bits, and scales it to 16
        png = save(tmp_path, Image.fromarray(np.full((8, 8), value, np.uint16)))
        pgm = tmp_path / 'a.pgm'
        pgm.write_bytes(b'P5 8 8 65535\n' + value.to_bytes(2, 'big') * 64)
        for path in (png, pgm):
            np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), round(value / 257)))


@pytest.mark.parametrize('value', [np.nan, np.inf, -0.5, 200.0])
def test_floats_that_are_no_brightness_are_refused(tmp_path, value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 4] = value
    with pytest.raises(InputFileError, match=r'a\.tif cannot be read \(its floating-point values are not from 0 to 1'):
        read_image(write_tiff(tmp_path / 'a.tif', pixels), (8, 8, 1))


def write_tiff(path, pixels):
    """A TIFF file of any type of numbers, by hand: Pillow writes fewer types than it reads."""
    bits, sample = 8 * pixels.itemsize, {'u': 1, 'i': 2, 'f': 3}[pixels.dtype.kind]
    height, width = pixels.shape
    tags = (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 12 * 10 + 4), (277, 1), (278, height)
    entries = [*tags, (279, pixels.nbytes), (339, sample)]
    head = b'II*\x00' + (8).to_bytes(4, 'little') + len(entries).to_bytes(2, 'little')
    for tag, value in entries:
        head += tag.to_bytes(2, 'little') + (4).to_bytes(2, 'little') + (1).to_bytes(4, 'little') + value.to_bytes(4, 'little')
    path.write_bytes(head + bytes(4) + pixels.tobytes())
    return path


def test_cmyk_jpeg_is_read(tmp_path):
    path = save(tmp_path, Image.new('CMYK', (20, 20), (0, 255, 255, 0)), 'red.jpg', quality=95)
    red, green, blue = read_image(path, SHAPE)[4, 4]
    assert red > 200 and green < 60 and blue < 60


def test_transparency_is_shown_on_white(tmp_path):
    image = Image.new('RGBA', (8, 8), (255, 0, 0, 0))
    np.testing.assert_array_equal(read_image(save(tmp_path, image), SHAPE), np.full(SHAPE, 255))


def test_the_centre_square_is_taken(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(pixels)), SHAPE), np.full(SHAPE, 200))


@pytest.mark.parametrize(('side', 'interpolation'), [(256, 'bilinear'), (232, 'bilinear'), (256, 'bicubic')])
def test_a_crop_is_that_of_torchvision(tmp_path, side, interpolation):
    """Resize(side), CenterCrop(224) of torchvision, which are these two calls of Pillow."""
    size = 450, 300
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image.save(tmp_path / 'image.png')
    kind = getattr(Image.Resampling, interpolation.upper())
    width = int(side * size[0] / size[1])
    left, top = round((width - 224) / 2), round((side - 224) / 2)
    expected = np.asarray(image.resize((width, side), kind).crop((left, top, left + 224, top + 224)), float)
    found = read_image(tmp_path / 'image.png', (224, 224, 3), crop=224 / side, interpolation=interpolation)
    assert np.abs(found - expected).max() <= 1
    assert np.abs(read_image(tmp_path / 'image.png', (224, 224, 3)) - expected).mean() > 10


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[:4] = 255  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    read = read_image(save(tmp_path, Image.fromarray(pixels), 'turned.png', exif=exif), SHAPE)
    np.testing.assert_array_equal(read, pixels[::-1])


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new('L', (8, 8), level) for level in (10, 200)]
    path = save(tmp_path, frames[0], 'animated.gif', save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), 10))


def test_one_pixel_is_enough(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.new('RGB', (1, 1), 'blue')), SHAPE)[0, 0], [0, 0, 255])


@pytest.mark.parametrize('make', ['missing', 'folder', 'fifo', 'empty', 'text', 'cut', 'svg', 'eps', 'huge'])
def test_what_is_no_image_is_named(tmp_path, make):
    path = tmp_path / make
    if make == 'folder':
        path.mkdir()
    elif make == 'fifo':
        os.mkfifo(path)
    elif make == 'cut':
        whole = save(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
        path.write_bytes(whole.read_bytes()[:2000])
    elif make == 'eps':
        Image.new('RGB', (8, 8)).save(path, 'EPS')
    elif make == 'huge':  # a header that claims 60,000 x 60,000 pixels
        Image.new('1', (1, 1)).save(path, 'PNG')
        data = bytearray(path.read_bytes())
        data[16:24] = (60000).to_bytes(4, 'big') * 2
        import zlib

        data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, 'big')
        path.write_bytes(data)
    elif make != 'missing':
        path.write_text({'empty': '', 'text': 'no image', 'svg': '<svg xmlns="http://www.w3.org/2000/svg"/>'}[make])
    with pytest.raises(InputFileError, match=make) as error:
        read_image(path, SHAPE)
    assert 'pixels' in str(error.value) if make == 'huge' else 'expected an image' in str(error.value)
    assert '\n' not in str(error.value)
