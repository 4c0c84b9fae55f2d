"""Images that are decoded when they are asked for: the same pixels as Pillow's, random crops, and what such a set cannot do."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from test_data_folder import load, small, write

from resnet_jax.data import LoadOptions, hold_out, images
from resnet_jax.data.describe import describe_dataset
from resnet_jax.data.images import read_crop
from resnet_jax.data.order import StepImages, epoch_order
from resnet_jax.data.parquet import open_parquet
from resnet_jax.data.resized_crop import resized_crop_box
from resnet_jax.data.split import ImagesOnDemand
from resnet_jax.errors import ConfigError, InputFileError

ALWAYS = {'decode': 'always', 'image_size': 8, 'normalization': 'imagenet'}


def photograph(size=(640, 480), seed=0):
    """Returns smooth colours, as a lossy format keeps them."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_the_boxes_have_the_published_distribution():
    """Up to 3/4 of a square, no proportion from 3/4 to 4/3 is rejected: the area and the logarithm of the ratio are uniform."""
    size = 3000
    boxes = np.array([resized_crop_box(7, step, position, size, size, 0.08) for step in range(20) for position in range(200)])
    top, left, rows, columns = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + rows <= size).all() and (left + columns <= size).all()
    area, ratio = rows * columns / size**2, np.log(columns / rows)
    inner = area <= 0.75
    assert inner.sum() > 2500 and area.min() < 0.1
    assert stats.kstest(area[inner], stats.uniform(0.08, 0.67).cdf).pvalue > 0.001
    assert stats.kstest(ratio[inner], stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3)).cdf).pvalue > 0.001
    places = np.stack([top / (size - rows + 1), left / (size - columns + 1)])[:, inner]
    for place in places:
        assert stats.kstest(place, 'uniform').pvalue > 0.001
    assert abs(np.corrcoef(places)[0, 1]) < 0.06


def test_a_box_depends_on_seed_step_and_position_and_on_nothing_else():
    assert resized_crop_box(0, 0, 0, 480, 640, 0.08) == (12, 42, 349, 354)  # for ever: a run that continues needs them
    others = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({resized_crop_box(*each, 480, 640, 0.08) for each in [(0, 0, 0), *others]}) == 4


@pytest.mark.parametrize(
    ('height', 'width', 'box'),
    [(30, 1000, (0, 480, 30, 40)), (1000, 30, (480, 0, 40, 30)), (60, 60, (0, 0, 60, 60)), (1, 1, (0, 0, 1, 1))],
)
def test_where_nothing_fits_it_is_the_largest_in_the_middle(height, width, box):
    """By hand: all of the area, which only a square of proportion 1 could be."""
    assert resized_crop_box(3, 0, 0, height, width, 1.0) == box


def test_a_crop_is_that_of_pillow():
    image = photograph()
    box = (50, 100, 200, 300)  # top, left, height, width
    expected = np.asarray(image.crop((100, 50, 400, 250)).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(read_crop(encoded(image, format='PNG'), (64, 64, 3), lambda *size: box), expected)
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), format='PNG', exif=_turned(6))
    sizes = []
    crop = read_crop(turned, (64, 64, 3), lambda *size: sizes.append(size) or box)
    np.testing.assert_array_equal(crop, expected)
    assert sizes == [(480, 640)]
    grey = read_crop(encoded(image.convert('L'), format='PNG'), (64, 64, 3), lambda *size: box)
    assert grey.shape == (64, 64, 3) and (grey[..., 0] == grey[..., 2]).all()


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize('orientation', [1, 6])
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(orientation):
    """Only a large one: below four times the wanted size its pixels are those of the whole picture."""
    image = photograph((1280, 960))
    stored = image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image
    data = encoded(stored, format='JPEG', quality=95, exif=_turned(orientation))
    whole = np.asarray(Image.open(io.BytesIO(data)), np.int32)
    whole = np.rot90(whole, 3) if orientation == 6 else whole
    for box, tolerance in (((0, 0, 960, 1280), 2.0), ((100, 200, 500, 600), 2.0), ((10, 20, 120, 130), 0.0)):
        top, left, height, width = box
        crop = Image.fromarray(whole[top : top + height, left : left + width].astype(np.uint8))
        expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR), np.int32)
        actual = read_crop(data, (32, 32, 3), lambda *size, box=box: box)
        assert np.abs(actual - expected).mean() <= tolerance and (tolerance > 0) == (actual != expected).any()


def test_an_image_is_decoded_each_time_and_only_when_it_is_asked_for(tmp_path, monkeypatch):
    root, opened = small(tmp_path, count=3), []
    original = images._open
    monkeypatch.setattr(images, '_open', lambda source, name, *rest: opened.append(name) or original(source, name, *rest))
    always = load(root, **ALWAYS)
    held, rest = hold_out(always.train, 2, seed=0)[::-1]
    assert describe_dataset(always)['duplicates'] is None and describe_dataset(always)['counts']['train'] == [3, 3]
    assert opened == [] and isinstance(rest.image, ImagesOnDemand) and rest.image.shape == (4, 8, 8, 3)
    assert always.mean == (0.485, 0.456, 0.406) and len(always.fingerprint) == 64
    once = load(root, image_size=8)
    opened.clear()
    chosen = hold_out(once.train, 2, seed=0)[1]
    np.testing.assert_array_equal(held.image[:], chosen.image)
    np.testing.assert_array_equal(held.label, chosen.label)
    np.testing.assert_array_equal(always.test.image[2:4], once.test.image[2:4])
    np.testing.assert_array_equal(always.train.image[np.array([[5, 0], [0, 1]])], once.train.image[[[5, 0], [0, 1]]])
    assert len(opened) == 2 + 2 + 4


def test_the_evaluation_shows_the_centre(tmp_path):
    """Resize(256), CenterCrop(224) of torchvision, up to where it rounds the size of the picture between the two."""
    image = photograph((400, 300))
    for part in ('train', 'val'):
        for name in 'ab':
            path = tmp_path / part / name / '1.png'
            path.parent.mkdir(parents=True)
            image.save(path)
    actual = load(tmp_path, decode='always', image_size=224, normalization='imagenet', test_crop=0.875).test.image[:1][0]
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((58, 16, 282, 240)), np.int32)
    assert np.abs(actual - expected).mean() < 1


def test_the_images_of_a_step(tmp_path):
    root = tmp_path / 'set'
    for i in range(12):
        for part in ('train', 'val'):
            path = root / part / 'ab'[i % 2] / f'{i:02}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph((40, 30), i).save(path)
    train = load(root, **ALWAYS).train.image
    steps = StepImages(train, seed=5, num_epochs=3, batch_size=5, positions=np.array([1, 3], np.int32), crop_area=0.08)
    assert len(steps) == 6
    order = epoch_order(5, 1, 12, 5)  # step 3 of the run is the second of epoch 1
    for actual, position in zip(steps[3], (1, 3), strict=True):
        image = photograph((40, 30), int(order[1, position]))
        top, left, height, width = resized_crop_box(5, 3, position, 30, 40, 0.08)
        crop = image.crop((left, top, left + width, top + height)).resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(actual, np.asarray(crop))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'image_size': 0}, "^decode='always' does not look at all images first; expected their size, such as image_size=224$"),
        ({'normalization': ''}, "^decode='always' .* expected mean and std, such as normalization='imagenet'$"),
        (
            {'broken_images': 'skip'},
            "^decode='always' meets broken images too late to skip them; expected broken_images='stop'",
        ),
        ({'decode': 'once', 'test_crop': 0.875}, "^test_crop=0.875 is for decode='always'; expected it with test_crop$"),
    ],
)
def test_what_such_a_set_needs(options, message):
    with pytest.raises(ConfigError, match=message):
        LoadOptions(**{**ALWAYS, **options})


def test_a_broken_image_names_its_path(tmp_path):
    root = small(tmp_path, count=3)
    (root / 'train' / 'dog' / '1.png').write_bytes(b'no image')
    train = load(root, **ALWAYS).train.image
    path = re.escape(str(root / 'train' / 'dog' / '1.png'))
    with pytest.raises(InputFileError, match=f'^{path} cannot be read .*expected an image'):
        train[:]


def test_a_table_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    png = encoded(photograph((8, 8)), format='PNG')
    table = pa.table({'image': [{'bytes': png}] * 8, 'label': [0, 1] * 4})
    pq.write_table(table, tmp_path / 'train.parquet')
    assert not open_parquet('x', str(tmp_path), LoadOptions()).random_access
    from resnet_jax.data import load_dataset

    with pytest.raises(ConfigError, match='is read in groups of rows'):
        load_dataset(f'parquet:{tmp_path}', **ALWAYS)


def test_a_million_files_are_few_objects(tmp_path):
    """What travels to a worker grows with the paths and not with Python objects."""
    import pickle

    write(tmp_path / 'train' / 'a' / 'x.png')
    sizes = []
    for count in (10, 20):
        root = small(tmp_path / str(count), count=count)
        sizes.append(len(pickle.dumps(load(root, **ALWAYS).train.image)))
    assert (sizes[1] - sizes[0]) / 20 < len(str(root)) + 60
