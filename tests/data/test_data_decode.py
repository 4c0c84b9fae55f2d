"""Arrays of encoded images: sizes, modes, what is broken, the cache, and the memory and work that it takes."""

import hashlib
import itertools
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_data_folder import load, small, write

from resnet_jax.data import decode, images
from resnet_jax.data.cache import cache_dir
from resnet_jax.data.folder import _Files
from resnet_jax.errors import InputFileError


@pytest.mark.parametrize('size', [(8, 8), (12, 6), (200, 250)])
def test_images_of_one_size_keep_it(tmp_path, size):
    for part in ('train', 'test'):
        for name in 'ab':
            write(tmp_path / part / name / '1.png', size=size)
    dataset = load(tmp_path)
    assert dataset.image_shape == (size[1], size[0], 3) and dataset.notes == ()


def test_images_of_many_sizes_become_64_unless_a_size_is_given(tmp_path):
    small(tmp_path)
    write(tmp_path / 'train' / 'cat' / 'large.jpg', size=(300, 100))
    dataset = load(tmp_path)
    assert dataset.image_shape == (64, 64, 3)
    assert dataset.notes == ('images from 8 x 8 to 100 x 300 pixels become 64 x 64 (image_size, resize=crop)',)
    assert load(tmp_path, image_size=32).image_shape == (32, 32, 3)


def test_large_images_of_one_size_become_64(tmp_path):
    for part in ('train', 'test'):
        for name in 'ab':
            write(tmp_path / part / name / '1.png', size=(300, 200))
    assert load(tmp_path).image_shape == (64, 64, 3)


def test_grey_images_have_one_channel_and_one_coloured_image_makes_it_three(tmp_path):
    for part in ('train', 'val'):
        for name in 'ab':
            write(tmp_path / part / name / '1.png', 7, mode='L')
            write(tmp_path / part / name / '2.png', 257 * 9, mode='I;16')
    grey = load(tmp_path)
    assert grey.image_shape == (8, 8, 1) and grey.train.image[:, 0, 0, 0].tolist() == [7, 7, 9, 9] and len(grey.mean) == 1
    write(tmp_path / 'val' / 'a' / '3.png', 50)
    assert load(tmp_path).image_shape == (8, 8, 3)


@pytest.mark.parametrize('resize', ['crop', 'squash', 'pad'])
def test_resize_rules_are_those_of_pillow(tmp_path, resize):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    original = Image.fromarray(pixels)
    expected = {
        'crop': original.resize((16, 16), Image.Resampling.BICUBIC, box=(10, 0, 30, 20)),
        'squash': original.resize((16, 16), Image.Resampling.BICUBIC),
        'pad': Image.new('RGB', (16, 16)),
    }
    expected['pad'].paste(original.resize((16, 8), Image.Resampling.BICUBIC), (0, 4))
    for part in ('train', 'val'):
        for name in 'ab':
            path = tmp_path / part / name / '1.png'
            path.parent.mkdir(parents=True)
            original.save(path)
    dataset = load(tmp_path, image_size=16, resize=resize)
    np.testing.assert_array_equal(dataset.train.image[0], np.asarray(expected[resize]))


def test_modes_and_the_orientation_of_a_camera(tmp_path):
    root = small(tmp_path, count=1)
    folder = root / 'train' / 'cat'
    write(folder / 'a-alpha.png', 0, mode='RGBA')  # nearly transparent: white
    Image.new('P', (8, 8)).save(folder / 'b-palette.gif')
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = Image.new('RGB', (8, 8))
    turned.paste((250, 0, 0), (0, 0, 4, 8))
    turned.save(folder / 'c-turned.png', exif=exif)
    image = load(root).train.image[-3:]
    assert image[0].min() > 240
    assert image[1].max() == 0
    assert image[2, 0, :, 0].min() == 250 and image[2, 7, :, 0].max() == 0  # left became top


@pytest.mark.parametrize('damage', ['cut', 'text', 'empty', 'bomb'])
def test_a_broken_image_stops_the_start_or_is_left_out_and_listed(tmp_path, damage, caplog):
    root = small(tmp_path / 'set', count=3)
    path = root / 'train' / 'dog' / '1.png'
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    noise.save(path)
    data = path.read_bytes()
    damaged = {'cut': data[:-60], 'text': b'hello', 'empty': b'', 'bomb': _bomb(data)}[damage]
    path.write_bytes(damaged)
    with pytest.raises(InputFileError, match=r"dog/1\.png .*Or leave out such images: broken_images='skip'") as raised:
        load(root)
    assert '\n' not in str(raised.value)
    with caplog.at_level(logging.INFO):
        dataset = load(root, broken_images='skip')
    assert dataset.train.label.tolist() == [0, 1, 0, 0, 1] and len(dataset.test.label) == 6
    assert dataset.notes[0] == '1 broken image left out' and 'dog/1.png' in dataset.notes[1] and 'dog/1.png' in caplog.text
    assert load(root, broken_images='skip').notes == dataset.notes  # from the cache


def _bomb(png):
    """A PNG whose header says 60,000 x 60,000."""
    header = b'IHDR' + (60_000).to_bytes(4, 'big') * 2 + png[24:29]
    import zlib

    return png[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + png[33:]


def test_a_class_of_broken_images(tmp_path):
    root = small(tmp_path, count=1)
    (root / 'val' / 'dog' / '0.png').write_bytes(b'?')
    with pytest.raises(InputFileError, match=r"every test image of class 'dog' is broken \(.*dog/0\.png cannot be read"):
        load(root, broken_images='skip')


def test_a_file_that_may_be_sound_tomorrow_is_not_left_out(tmp_path, monkeypatch):
    root = small(tmp_path)
    read = _Files.read

    def changed(files, index):
        if files.describe(index).endswith('dog/1.png'):
            raise InputFileError(f'{files.describe(index)} was changed while the data set was read')
        return read(files, index)

    with monkeypatch.context() as patch:
        patch.setattr(_Files, 'read', changed)
        with pytest.raises(InputFileError, match='was changed') as raised:
            load(root, broken_images='skip')
    assert 'leave out' not in str(raised.value) and len(load(root, broken_images='skip').train.label) == 4

    def no_memory(*args, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(images.Image, 'open', no_memory)
        (root / 'train' / 'dog' / '1.png').touch()
        with pytest.raises(MemoryError):
            load(root, broken_images='skip')
    assert len(load(root, broken_images='skip').train.label) == 4


def test_another_folder_of_files_with_the_same_names_sizes_and_times_is_another_data_set(tmp_path):
    pixels = {}
    for name, grey in (('fog', 200), ('snow', 240)):
        for part, label in itertools.product(('train', 'val'), ('a', 'b')):
            path = tmp_path / name / part / label / '0.bmp'
            path.parent.mkdir(parents=True)
            Image.new('L', (8, 8), grey).save(path)
            os.utime(path, (0, 0))
        pixels[name] = load(tmp_path / name).train.image.max()
    assert pixels == {'fog': 200, 'snow': 240}
    (tmp_path / 'snow').rename(tmp_path / 'fog2')
    (tmp_path / 'fog').rename(tmp_path / 'snow')
    assert load(tmp_path / 'snow').train.image.max() == 200


def test_every_broken_image_is_a_note(tmp_path, caplog):
    root = small(tmp_path / 'set', count=40)
    for path in (root / 'train').rglob('3*.png'):
        path.write_bytes(b'?')
    with caplog.at_level(logging.INFO):
        notes = load(root, broken_images='skip').notes
    assert notes[0] == '22 broken images left out' and len(notes) == 23
    assert f'{root}: and 3 more' in caplog.text


def test_the_second_start_decodes_nothing_and_a_changed_file_is_noticed(tmp_path, monkeypatch):
    root = small(tmp_path)
    first = load(root)

    def never(*args):
        raise AssertionError('decoded again')

    with monkeypatch.context() as patch:
        patch.setattr(decode, 'read_image', never)
        again = load(root)
    assert again.fingerprint == first.fingerprint and not again.train.image.flags.writeable
    write(root / 'train' / 'cat' / '0.png', 200)
    assert load(root).train.image[0, 0, 0, 0] == 200
    assert len(list(cache_dir().iterdir())) == 2


def test_work_and_memory_grow_with_the_images_and_not_faster(tmp_path, monkeypatch):
    """Each file is opened twice, for its header and its pixels, and at most a block of images is in memory."""
    monkeypatch.setattr(decode, '_BLOCK', 4)
    root, opened = small(tmp_path, count=10), []
    original = images._open
    monkeypatch.setattr(images, '_open', lambda source, name, *rest: opened.append(name) or original(source, name, *rest))
    load(root)
    assert len(opened) == 2 * 40 and len(set(opened)) == 40


def test_the_fingerprint_is_that_of_pixels_and_labels(tmp_path):
    """Computed by hand, and the same for other files with the same pixels."""
    root = small(tmp_path / 'png')
    dataset = load(root)
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        digest.update(f'{hashlib.sha256(split.image.tobytes()).hexdigest()} 4 (8, 8, 3)'.encode())
        digest.update(split.label.astype('<i4').tobytes())
    assert dataset.fingerprint == digest.hexdigest()
    for path in root.rglob('*.png'):
        copy = tmp_path / 'bmp' / path.relative_to(root).with_suffix('.bmp')
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy)
    assert load(tmp_path / 'bmp').fingerprint == dataset.fingerprint


MEASURE = """
import os, resource, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
from resnet_jax.data import decode, load_dataset
decode._BLOCK = 16
load_dataset(f'folder:{sys.argv[1]}/little', image_size=256)  # what is imported and allocated once
data = next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmData'))
resource.setrlimit(resource.RLIMIT_DATA, (data + int(sys.argv[2]), resource.RLIM_INFINITY))
dataset = load_dataset(f'folder:{sys.argv[1]}/many', image_size=256)
print(dataset.train.image.nbytes + dataset.test.image.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='other systems do not limit the memory of a process')
def test_a_set_four_times_as_large_as_the_memory_is_decoded(tmp_path):
    """The arrays go to the disk in blocks and are mapped from there."""
    cap = 40 * 2**20
    small(tmp_path / 'little', count=10)
    small(tmp_path / 'many', count=214)
    done = subprocess.run([sys.executable, '-c', MEASURE, str(tmp_path), str(cap)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4 * cap
