import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from resnet_jax.data.order import epoch_order
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.loading import load_function
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.training.samples import draw_samples, first_images

pytestmark = pytest.mark.usefixtures('quick_compilation')

DATA = tiny.dataset()


@pytest.fixture(scope='module')
def experiment():
    return create_experiment(tiny.checked(random_erasing_prob=0.5, cutmix_alpha=1.0, batch_size=12, seed=3), DATA.info)


@pytest.mark.slow
def test_the_images_are_those_that_the_first_steps_are_given(experiment):
    shown = first_images(experiment, DATA.train)
    assert shown.shape == (8, 8, 8, 8, 1) and shown.dtype == np.uint8
    order = epoch_order(3, 0, 50, 12)[0]
    np.testing.assert_array_equal(shown[:, 0], DATA.train.image[order[:8]])
    load = jax.jit(load_function(experiment))
    arrays = DATA.train.image, DATA.train.label, order, np.arange(12, dtype=np.int32)
    for step in (0, 6):
        images = load(*arrays, step, jax.random.key(3))['image'][:8]
        np.testing.assert_allclose(shown[:, 1 + step], (np.asarray(images) * 0.2 + 0.3) * 255, atol=0.51)
    assert not np.array_equal(shown[:, 1], shown[:, 7])


@pytest.mark.slow
def test_a_run_with_augmentation_and_class_weights_shows_both_in_its_report(tmp_path, monkeypatch):
    tiny.register(monkeypatch, DATA)
    config = tiny.config(model='tiny', model_kwargs={}, random_erasing_prob=0.5, class_weights='balanced', num_epochs=2)
    result = train_and_evaluate(config, tmp_path / 'run')
    assert result.result['accuracy'] > 0.3
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert '<img alt="augmented training images"' in page and '<td>balanced accuracy</td><td>19</td>' in page


@pytest.mark.slow
def test_a_sheet_is_drawn_where_the_images_change_a_lot(experiment, tmp_path, caplog):
    draw_samples(
        create_experiment(tiny.checked(cutout_size=2, brightness=1e38, mixup_alpha=1e38), DATA.info), DATA.train, tmp_path
    )
    assert not list(tmp_path.iterdir())
    draw_samples(experiment, DATA.train, tmp_path)
    assert Image.open(tmp_path / 'plots' / 'augmentation.png').size == (8 * 68 + 8, 8 * 68 + 4)
    (tmp_path / 'file').touch()
    draw_samples(experiment, DATA.train, tmp_path / 'file')
    assert 'The sheet of augmented images could not be drawn' in caplog.text
