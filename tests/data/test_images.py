import io
import os

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from resnet_jax.data import images
from resnet_jax.data.images import image_header, read_crop, read_image
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


WHITE = {'uint16': 65535, 'int16': 32767, 'int32': 2**31 - 1, 'uint32': 2**32 - 1, 'float32': 1.0}


@pytest.mark.parametrize('kind', WHITE)
def test_the_type_decides_what_is_white_and_not_the_content(tmp_path, kind):
    for share in (0, 0.01, 0.25, 1):
        pixels = np.full((8, 8), share * WHITE[kind]).astype(kind)
        path = write_tiff(tmp_path / 'a.tif', pixels)
        np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), round(255 * share)))
        whole = read_crop(path, (8, 8, 1), lambda height, width: (0, 0, height, width))
        np.testing.assert_array_equal(whole, np.full((8, 8, 1), round(255 * share)))


def test_twelve_bits_are_scaled_as_such(tmp_path):
    for value in (0, 100, 2048, 4095):
        path = write_tiff(tmp_path / 'a.tif', np.full((8, 8), value, np.uint16), packed=f'{value:03x}' * 64)
        np.testing.assert_array_equal(read_image(path, (8, 8, 1)), np.full((8, 8, 1), round(255 * value / 4095)))


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'float32'])
def test_where_a_tiff_says_that_zero_is_white_it_is(tmp_path, kind):
    white = {**WHITE, 'uint8': 255}[kind]
    for share in (0, 0.25, 1):
        path = write_tiff(tmp_path / 'a.tif', np.full((8, 8), share * white).astype(kind), photometric=0)
        expected = 255 - round(255 * share)
        np.testing.assert_allclose(read_image(path, (8, 8, 1)), expected, atol=1)
        padded = read_image(path, (8, 16, 1), resize='pad')
        assert padded[0, 0, 0] == 0 and abs(int(padded[0, 8, 0]) - expected) <= 1


@pytest.mark.parametrize('kind', ['float16', 'float64', 'int64', 'uint64'])
def test_a_tiff_of_an_unsupported_type_is_not_called_no_image(tmp_path, kind):
    path = write_tiff(tmp_path / 'a.tif', np.ones((8, 8), kind))
    for source in (path, path.read_bytes()):
        with pytest.raises(
            InputFileError, match=r'a TIFF that is damaged or of an unsupported kind, .*: convert it to 16 bits'
        ):
            read_image(source, (8, 8, 1))


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


def write_tiff(path, pixels, photometric=1, packed=None):
    """A TIFF file of any type of numbers, by hand: Pillow writes fewer types than it reads.

    Args:
      photometric: 1 where 0 is black, 0 where it is white.
      packed: the pixels as hexadecimal digits, three for each, in a file of 12 bits.
    """
    bits, sample = 8 * pixels.itemsize, {'u': 1, 'i': 2, 'f': 3}[pixels.dtype.kind]
    content = pixels.tobytes()
    if packed:
        bits, content = 12, bytes.fromhex(packed)
    height, width = pixels.shape
    tags = (
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8 + 2 + 12 * 10 + 4),
        (277, 1),
        (278, height),
    )
    entries = [*tags, (279, len(content)), (339, sample)]
    head = b'II*\x00' + (8).to_bytes(4, 'little') + len(entries).to_bytes(2, 'little')
    for tag, value in entries:
        head += tag.to_bytes(2, 'little') + (4).to_bytes(2, 'little') + (1).to_bytes(4, 'little') + value.to_bytes(4, 'little')
    path.write_bytes(head + bytes(4) + content)
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
    actual = read_image(tmp_path / 'image.png', (224, 224, 3), crop=224 / side, interpolation=interpolation)
    assert np.abs(actual - expected).max() <= 1
    assert np.abs(read_image(tmp_path / 'image.png', (224, 224, 3)) - expected).mean() > 10


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[:4] = 255  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    read = read_image(save(tmp_path, Image.fromarray(pixels), 'turned.png', exif=exif), SHAPE)
    np.testing.assert_array_equal(read, pixels[::-1])


@pytest.mark.parametrize('entry', [b'\x03\x00\x01\x00\x00\x00\x09', b'\x02\x00\x02\x00\x00\x006'], ids=['9', 'text'])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, entry):
    exif = b'Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01' + entry.ljust(14, b'\x00')
    path = save(tmp_path, Image.new('RGB', (20, 10)), 'a.jpg', exif=exif)
    assert image_header(path) == (10, 20, 3) and read_image(path, SHAPE).shape == SHAPE


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


@pytest.mark.parametrize('size', [(64, 64), (48, 64)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA'])
def test_resizing_is_that_of_pillow(mode, size):
    rng = np.random.default_rng(0)
    for width, height in [(200, 133), (61, 97), (64, 64), (3, 900)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8)).convert(mode)
        for crop in (1.0, 224 / 256):
            wanted = ImageOps.fit(image, size, Image.Resampling.BICUBIC, bleed=(1 - crop) / 2)
            np.testing.assert_array_equal(images._resized(image, size, 'crop', crop), wanted)
        if min(width, height) > 3:  # Pillow makes rows of height 0 of the last one
            wanted = ImageOps.pad(image, size, Image.Resampling.BICUBIC, color=(0, 0, 0, 255) if mode == 'RGBA' else 0)
            np.testing.assert_array_equal(images._resized(image, size, 'pad'), wanted)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'LA', 'CMYK', 'YCbCr', 'LAB', '1', 'P', 'I;16'])
def test_bars_are_black(mode, tmp_path):
    path = tmp_path / 'a.tiff'
    Image.new('RGB' if mode in ('P', 'YCbCr') else mode, (40, 20)).convert(mode).save(path)
    padded = read_image(path, (32, 32, 3), 'pad')
    assert padded[:8].max() <= 1 and padded[24:].max() <= 1  # LAB has no exact black


@pytest.mark.parametrize('resize', ['crop', 'squash', 'pad'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_jpeg_decoded_at_a_fraction_is_not_stretched(orientation, resize):
    """A size that is no multiple of 8: the last row and column of the smaller picture are not whole."""
    columns, rows = np.meshgrid(np.arange(1030), np.arange(773))
    picture = np.stack([columns / 4.1, rows / 3.1, 128 + 100 * np.sin(columns / 60 + rows / 90)], -1).astype(np.uint8)
    jpeg, png = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(picture).save(jpeg, 'JPEG', quality=98, subsampling=0, exif=exif)
    Image.open(io.BytesIO(jpeg.getvalue())).save(png, 'PNG', exif=exif)
    small, whole = (read_image(file.getvalue(), (30, 30, 3), resize).astype(int) for file in (jpeg, png))
    assert np.abs(small - whole).max() <= 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_turned_tiff_has_the_size_that_is_shown(orientation):
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(picture).save(file, 'TIFF', exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    assert image_header(file.getvalue()) == shown.shape
    np.testing.assert_array_equal(read_image(file.getvalue(), shown.shape), shown)
    crop = read_crop(file.getvalue(), (9, 8, 3), lambda height, width: (2, 1, 9, 8))
    np.testing.assert_array_equal(crop, shown[2:11, 1:9])


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'JPEG'])
def test_damaged_exif_data_break_no_picture(kind, capfd):
    file = io.BytesIO()
    Image.new('RGB', (9, 8), 'red').save(file, kind, exif=b'Exif\0\0xxxx' if kind == 'JPEG' else b'xxxx')
    assert image_header(file.getvalue()) == (8, 9, 3) and read_image(file.getvalue(), (8, 8, 3))[..., 0].min() > 250
    assert capfd.readouterr().err == ''


def test_the_transparent_value_of_a_16_bit_png_is_white(tmp_path):
    path, values = tmp_path / 'a.png', np.full((8, 8), 1000, np.uint16)
    values[:, 4:] = 30000
    Image.fromarray(values).save(path, transparency=1000)
    out = read_image(path, (8, 8, 1))[..., 0]
    assert (out[:, :4] == 255).all() and (out[:, 4:] == round(30000 / 257)).all()
