import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.evaluator import evaluate_run
from resnet_jax.evaluation.run import load_run
from resnet_jax.training.loop import train_and_evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as bin/train.py does, for the configs


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    from configs import quickstart

    config = quickstart.get_config()
    config.update(num_epochs=1, warmup_epochs=0.5, ema_decay=0.9)
    config.model_kwargs.update(num_filters=4, stage_sizes=(1, 1))
    path = tmp_path_factory.mktemp('run')
    train_and_evaluate(config, path)
    return path


def test_a_loaded_run_predicts_what_its_evaluation_counted(workdir):
    run = load_run(workdir)
    assert run.step == 22 and run.dataset['class_names'] == list('0123456789')
    test = load_dataset('digits').test
    probabilities = run.predict(test.image, batch_size=64)
    assert probabilities.shape == (360, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    metrics = evaluate_run(run)
    assert metrics['accuracy'] == (probabilities.argmax(axis=1) == test.label).mean()
    loss = -np.log(probabilities[np.arange(360), test.label]).mean()
    assert metrics['loss'] == pytest.approx(loss, rel=1e-4)


def test_averaged_parameters_are_others(workdir):
    plain, averaged = load_run(workdir).variables, load_run(workdir, ema=True).variables
    assert jax.tree.structure(plain) == jax.tree.structure(averaged)
    kernels = [tree['params']['conv1']['kernel'] for tree in (plain, averaged)]
    assert not np.array_equal(*kernels)


def test_no_images_give_no_probabilities(workdir):
    assert load_run(workdir).predict(np.zeros((0, 8, 8, 1), np.uint8)).shape == (0, 10)


@pytest.mark.parametrize('images', [np.zeros((2, 9, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.float32)])
def test_images_of_another_shape_or_dtype_are_refused(workdir, images):
    with pytest.raises(ConfigError, match=r'expected uint8 \[n, 8, 8, 1\]'):
        load_run(workdir).predict(images)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputFileError, match='no run in'):
        load_run(tmp_path)
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(InputFileError, match='no checkpoint yet'):
        load_run(tmp_path)
