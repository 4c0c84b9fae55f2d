"""Networks as they are served: the same numbers as the classifier's, compiled before, whatever they come from."""

import dataclasses
import json
import logging
import os

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.config import TrainConfig
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.explanations import grad_cam
from resnet_jax.evaluation.metrics import calibration
from resnet_jax.evaluation.predictions import Predictions
from resnet_jax.models import create_model
from resnet_jax.serve import confidence, exported
from resnet_jax.serve.network import _explained_layer, load_network
from resnet_jax.serve.program import Program

DIGITS = 'resnet_jax/resnet8.digits'

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def classifier():
    return resnet_jax.load(DIGITS)


@pytest.fixture(scope='module')
def images():
    from sklearn.datasets import load_digits

    return (load_digits().images[:5, ..., None] * 255 / 16).astype(np.uint8)


def test_a_program_answers_what_it_is_asked_and_pads_the_rest():
    seen = []

    def run(numbers):
        seen.append(numbers.tolist())
        return 2 * numbers

    program = Program({1: run, 4: run}, lambda size: [np.zeros(size)])
    seen.clear()
    assert program([(np.float64(1),), (np.float64(2),)]) == [2, 4] and seen == [[1, 2, 0, 0]]
    assert program([(np.float64(3),)]) == [6] and seen[1] == [3]
    program.seconds = {1: 1.0, 4: 1.5}  # as on a GPU, where padding is cheap
    assert [program.best_size(waiting) for waiting in (1, 2, 3, 9)] == [1, 4, 4, 4]
    program.seconds = {1: 1.0, 4: 4.5}  # as for a network that one image keeps busy
    assert [program.best_size(waiting) for waiting in (1, 2, 3, 9)] == [1, 1, 1, 1]


@pytest.mark.slow
def test_it_answers_as_the_classifier_does_and_compiles_nothing_more(classifier, images, caplog):
    network = load_network(DIGITS, 'digits', (1, 4), (1, 2))
    want, maps = classifier.probabilities(images[:3]), grad_cam(classifier, images[:2], layer=network.facts['explained_layer'])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(network.probabilities([(image,) for image in images[:3]]), want, rtol=1e-4, atol=1e-7)
        items = [(image, np.int32(index)) for image, index in zip(images[:2], want.argmax(1), strict=False)]
        np.testing.assert_allclose(network.maps(items), maps, atol=1e-4)
        for count in (1, 2, 4):
            network.probabilities([(images[0],)] * count)
        assert not [record for record in caplog.records if 'ompiling' in record.message]
        jax.jit(lambda x: x + 1)(np.zeros(3))  # the log would have shown it
        assert [record for record in caplog.records if 'ompiling' in record.message]
    assert network.measured is None and network.facts['dataset'] == 'digits' and network.class_names == classifier.class_names


@pytest.mark.parametrize('name', ['model.stablehlo', 'model.onnx'])
def test_exported_programs_answer_as_the_classifier_does(name, exported_folder, classifier, images):
    path = exported_folder if name == 'model.stablehlo' else exported_folder / name
    network = load_network(str(path), 'exported', (1, 4), (1,))
    actual = network.probabilities([(image,) for image in images[:3]])
    np.testing.assert_allclose(actual, classifier.probabilities(images[:3]), rtol=1e-3, atol=1e-6)
    assert network.maps is None and network.class_names == classifier.class_names
    assert network.facts == {'format': name.partition('.')[2], 'model': 'resnet8', 'dataset': 'digits'}


def test_exported_files_that_are_not_whole_are_one_line(exported_folder, tmp_path):
    for name in ('model.stablehlo', 'model.onnx'):
        (tmp_path / name).write_bytes((exported_folder / name).read_bytes()[:1000])
        with pytest.raises(InputFileError, match='export it again'):
            exported.load(tmp_path / name)
        with pytest.raises(InputFileError, match='export it again'):
            exported.load(tmp_path / 'missing' / name)
        (tmp_path / name).unlink()
        for trap in (lambda path: os.mkfifo(path), lambda path: path.symlink_to('/dev/zero')):
            trap(tmp_path / name)
            with pytest.raises(InputFileError, match=r'is no file; expected model.stablehlo or model.onnx'):
                load_network(str(tmp_path / name), 'trap', (1,), (1,))
            (tmp_path / name).unlink()
    assert exported.describe(tmp_path / 'model.onnx', 2)['class_names'] == ['0', '1']  # of older exports, or a file moved
    described = json.loads((exported_folder / 'config.json').read_text())
    for wrong in (
        {'class_names': ['a']},
        {'crop': 0},
        {'crop': 'a'},
        {'resize': 'b'},
        {'interpolation': 3},
        {'class_names': 4},
    ):
        (tmp_path / 'config.json').write_text(json.dumps({**described, **wrong}))
        with pytest.raises(InputFileError, match=r'config.json does not describe model.onnx'):
            exported.describe(tmp_path / 'model.onnx', 10)
    with pytest.raises(ConfigError, match='expected ema=False'):
        load_network(str(exported_folder), 'exported', (1,), (1,), ema=True)


def test_a_damaged_program_is_one_error_and_the_compiler_adds_nothing(exported_folder, tmp_path, capfd):
    data = bytearray((exported_folder / 'model.stablehlo').read_bytes())
    start = data.index(b'ML\xefR')  # of the program
    data[start + 60 : start + 90] = b'\xff' * 30
    (tmp_path / 'model.stablehlo').write_bytes(data)
    with pytest.raises(InputFileError, match=r'model.stablehlo cannot be read .*; export it again'):
        load_network(str(tmp_path / 'model.stablehlo'), 'damaged', (1,), (1,))
    assert 'error' not in capfd.readouterr().err


def test_damaged_weights_are_refused_before_the_first_request(classifier, tmp_path):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, 3e38), classifier.variables)
    dataclasses.replace(classifier, variables=broken).save(tmp_path / 'broken.safetensors')
    with pytest.raises(InputFileError, match='not finite: its weights are damaged'):
        load_network(str(tmp_path / 'broken.safetensors'), 'broken', (1,), (1,))


def test_the_explained_layer_has_maps_with_places():
    def layer(name, size):
        model = create_model(name)
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32), train=False))
        return _explained_layer(resnet_jax.Classifier(model, variables, (size, size, 3), tuple('abcdefghij'), None, None))

    assert layer('resnet20', 32) == 'layer3_2'  # the last block
    assert layer('d2l_resnet18', 32) == 'layer2_1'  # 4 x 4; the last one is a single pixel


def predictions(count, classes=3, seed=0):
    """Answers that are right as often as they are sure."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.4, 1, count)
    label = rng.integers(0, classes, count).astype(np.int32)
    answer = np.where(rng.uniform(size=count) < sure, label, (label + 1) % classes)
    probabilities = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, 1)
    probabilities[np.arange(count), answer] = sure
    return Predictions(np.log(probabilities).astype(np.float32), label, 'f')


def test_accuracy_by_confidence():
    answers = predictions(3000)
    measured = confidence.measure(answers)
    assert [one.count for one in measured.bins] == [200] * 15
    assert all(abs(one.accuracy - (one.low + one.high) / 2) < 0.11 for one in measured.bins)  # 3 sd of a share of 200
    # The mean gap over bins of equal counts and over those of the report estimate the same.
    gaps = [abs(one.accuracy - (one.low + one.high) / 2) for one in measured.bins]
    assert np.mean(gaps) == pytest.approx(calibration(answers.log_probabilities, answers.labels)['ece'], abs=0.02)
    assert measured.of(0.0) == measured.bins[0] and measured.of(1.0) == measured.bins[-1]
    middle = measured.bins[7]
    assert measured.of((middle.low + middle.high) / 2) == middle
    assert confidence.measure(predictions(49)) is None and len(confidence.measure(predictions(100)).bins) == 2


def test_answers_of_one_confidence_are_one_bin():
    sure = Predictions(np.log(np.tile(np.float32([1.0, 1e-9]), (300, 1))), (np.arange(300) % 10 == 0).astype(np.int32), 'f')
    (one,) = confidence.measure(sure).bins
    assert (one.low, one.high, one.count) == (1.0, 1.0, 300) and one.accuracy == pytest.approx(0.9)


def test_confidence_is_that_of_the_same_network_or_none(classifier, tmp_path):
    def of(step=7, fingerprint='f', **changes):
        origin = dataclasses.replace(
            classifier.origin, path=str(tmp_path), config=TrainConfig(), step=step, fingerprint=fingerprint, **changes
        )
        return confidence.of_run(dataclasses.replace(classifier, origin=origin))

    assert of() is None  # not evaluated
    predictions(100, classes=10).save(tmp_path)
    assert of() is None  # not finished
    result = {'split': 'test', 'selected': 'last', 'accuracy': 0.5, 'loss': 1.0, 'count': 100, 'step': 7, 'epoch': 2}
    (tmp_path / 'result.json').write_text(json.dumps(result))
    assert len(of().bins) == 2
    assert of(step=8) is None and of(fingerprint='g') is None and of(ema=True) is None
    predictions(100, classes=3).save(tmp_path)
    with pytest.raises(InputFileError, match='another number of classes'):
        of()
    dataclasses.replace(predictions(100, classes=10), tta='mirror').save(tmp_path)
    assert of() is None
