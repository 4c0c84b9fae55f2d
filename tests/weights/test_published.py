"""The table of published weights: its facts, the names and shapes of its files, and the network in the package."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_files import torch_file

import resnet_jax
from resnet_jax.classifier import Classifier
from resnet_jax.data import load_dataset
from resnet_jax.data.class_names import class_names
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.evaluation.predictions import predict_split
from resnet_jax.models import create_model
from resnet_jax.weights import published
from resnet_jax.weights.hub import fetch
from resnet_jax.weights.match import model_shapes
from resnet_jax.weights.names import default_naming, torch_name, torch_shape
from resnet_jax.weights.published import PUBLISHED, available_weights, find_weights

# Of the state dicts of torchvision 0.29.1, timm 1.0.31, and chenyaofo's and akamaster's resnet.py: the number of tensors
# (without BatchNorm's counters), of parameters, and the beginning of the SHA-256 of the sorted lines 'name [shape]'.
STATE_DICTS = {
    ('torchvision', 'alexnet_imagenet', 1000): (16, 61_100_840, '12a60b133d7b54dc'),
    ('torchvision', 'resnet18', 1000): (102, 11_689_512, 'fc669aac650ab66f'),
    ('torchvision', 'resnet34', 1000): (182, 21_797_672, 'efabbe4b2289112b'),
    ('torchvision', 'resnet50', 1000): (267, 25_557_032, '584ee931ad382885'),
    ('torchvision', 'resnet101', 1000): (522, 44_549_160, 'a85edc6cd135a89d'),
    ('torchvision', 'resnet152', 1000): (777, 60_192_808, 'd9e4b3df983b2711'),
    ('torchvision', 'resnext50_32x4d', 1000): (267, 25_028_904, '379a66ba74321238'),
    ('torchvision', 'resnext101_32x8d', 1000): (522, 88_791_336, '4104e364e9080b7d'),
    ('torchvision', 'wide_resnet50_2', 1000): (267, 68_883_240, '2eeb42447858de4f'),
    ('torchvision', 'wide_resnet101_2', 1000): (522, 126_886_696, '37ed99aece62b37f'),
    ('timm', 'resnet18', 1000): (102, 11_689_512, 'fc669aac650ab66f'),
    ('timm', 'resnet18d', 1000): (112, 11_708_744, 'b199b4da92f6d0f7'),
    ('timm', 'resnet34', 1000): (182, 21_797_672, 'efabbe4b2289112b'),
    ('timm', 'resnet34d', 1000): (192, 21_816_904, '3216b8d4f5979e73'),
    ('timm', 'resnet50', 1000): (267, 25_557_032, '584ee931ad382885'),
    ('timm', 'resnet50d', 1000): (277, 25_576_264, '47aed8fd9a1802c5'),
    ('timm', 'resnet101', 1000): (522, 44_549_160, 'a85edc6cd135a89d'),
    ('timm', 'resnet101d', 1000): (532, 44_568_392, 'da8f840429d0d696'),
    ('timm', 'resnet152', 1000): (777, 60_192_808, 'd9e4b3df983b2711'),
    ('timm', 'resnet152d', 1000): (787, 60_212_040, '265245c1857293b9'),
    ('timm', 'seresnet50', 1000): (331, 28_088_024, 'babad1660707a9a7'),
    ('timm', 'resnext50_32x4d', 1000): (267, 25_028_904, '379a66ba74321238'),
    ('timm', 'wide_resnet50_2', 1000): (267, 68_883_240, '2eeb42447858de4f'),
    ('chenyaofo', 'resnet20', 10): (107, 272_474, 'e40bef5b31350cca'),
    ('chenyaofo', 'resnet32', 10): (167, 466_906, '1f51899d9db19a56'),
    ('chenyaofo', 'resnet44', 10): (227, 661_338, '00a17d3e2937d2bd'),
    ('chenyaofo', 'resnet56', 10): (287, 855_770, '2c5108afe88a6205'),
    ('chenyaofo', 'resnet20', 100): (107, 278_324, '5d3873656a7a3cc4'),
    ('chenyaofo', 'resnet32', 100): (167, 472_756, '348bdca1acfc61b5'),
    ('chenyaofo', 'resnet44', 100): (227, 667_188, '37ee876713324d29'),
    ('chenyaofo', 'resnet56', 100): (287, 861_620, '1211e679aa1ac2b7'),
    ('akamaster', 'resnet20', 10): (97, 269_722, 'b73c00185925457c'),
    ('akamaster', 'resnet32', 10): (157, 464_154, 'c8a1e6f2dc78d07f'),
    ('akamaster', 'resnet44', 10): (217, 658_586, 'a29b703d20ae7c91'),
    ('akamaster', 'resnet56', 10): (277, 853_018, 'efa12125c7dc8c12'),
    ('akamaster', 'resnet110', 10): (547, 1_727_962, '7267e6f6fb5b4ff5'),
    ('akamaster', 'resnet1202', 10): (6007, 19_421_274, '63ba21a7747659db'),
}


def network(entry):
    return entry.name.partition('/')[0], entry.model, entry.num_classes


@pytest.mark.parametrize(
    'key',
    [pytest.param(key, marks=[pytest.mark.slow] * (tensors > 500)) for key, (tensors, *_) in STATE_DICTS.items()],
    ids=lambda key: '-'.join(map(str, key)),
)
def test_the_network_has_the_names_and_shapes_of_the_published_state_dict(key):
    entry = next(entry for entry in PUBLISHED.values() if network(entry) == key)
    model = create_model(entry.model, entry.num_classes, **entry.model_kwargs)
    naming = 'kuangliu' if key[0] == 'akamaster' else default_naming(model)
    shapes = {torch_name(ours, naming): torch_shape(shape) for ours, shape in model_shapes(model, entry.image_shape).items()}
    lines = '\n'.join(sorted(f'{name} {list(shape)}' for name, shape in shapes.items()))
    parameters = sum(int(np.prod(shape)) for name, shape in shapes.items() if '.running_' not in name)
    assert (len(shapes), parameters, hashlib.sha256(lines.encode()).hexdigest()[:16]) == STATE_DICTS[key]


def test_every_entry_has_its_network_in_this_test():
    assert {network(entry) for entry in PUBLISHED.values() if not entry.name.startswith('resnet_jax/')} == {*STATE_DICTS}


@pytest.mark.parametrize('entry', PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_facts_of_an_entry_agree(entry):
    assert published.is_name(entry.name) and Path(entry.name).suffix != '.safetensors'
    assert re.fullmatch(r'(https://\S+|hf://[\w.-]+/[\w.-]+/model\.safetensors|package:\S+)', entry.url)
    assert re.fullmatch(r'[0-9a-f]{64}|[0-9a-f]{8}|', entry.sha256)
    # torch.hub's convention, which torchvision and akamaster follow: the name of the file ends with the hash's first digits.
    if entry.url.startswith('https://') and entry.sha256:
        assert re.search(rf'-{entry.sha256[:8]}\.(pth|th)$', entry.url)
    assert 0 < entry.crop <= 1 and 50 < entry.accuracy < 100 and entry.licence
    assert len(class_names(entry.dataset)) == entry.num_classes
    assert len(entry.mean) == len(entry.std) == entry.image_shape[-1]


def test_names_of_classes():
    """In ImageNet's order: WordNet identifiers ascending, as those of the images' folders."""
    imagenet = class_names('imagenet')
    wanted = {
        0: 'tench',
        1: 'goldfish',
        134: 'crane bird',
        207: 'golden retriever',
        281: 'tabby',
        517: 'crane',
        999: 'toilet tissue',
    }
    assert {index: imagenet[index] for index in wanted} == wanted
    assert len({*imagenet}) == 1000 and all(name.isprintable() and name == name.strip() for name in imagenet)
    assert list(class_names('cifar100')) == sorted(class_names('cifar100')) and len({*class_names('cifar100')}) == 100
    with pytest.raises(KeyError):
        class_names('mnist')


def test_finding_a_name():
    assert available_weights('resnet20') == (
        'chenyaofo/resnet20.cifar10',
        'chenyaofo/resnet20.cifar100',
        'akamaster/resnet20.cifar10',
    )
    assert available_weights() == tuple(PUBLISHED) == resnet_jax.available_weights()
    with pytest.raises(ConfigError, match=r"'timm/resnet50.a1_in'; did you mean 'timm/resnet50.a1_in1k'\?.*hf://OWNER"):
        find_weights('timm/resnet50.a1_in')
    with pytest.raises(ConfigError, match="unknown model 'resnet51'"):
        available_weights('resnet51')
    with pytest.raises(ConfigError, match='no weights are called'):
        Classifier.load('torchvision/resnet18')
    with pytest.raises(InputFileError, match='no run in runs/none'):  # not of a publisher: a path
        Classifier.load('runs/none')


def test_the_network_in_the_package_has_the_accuracy_that_its_entry_states():
    entry = find_weights('resnet_jax/resnet8.digits')
    path = fetch(entry)
    assert path.stat().st_size < 400_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    classifier = resnet_jax.load(entry.name)
    metrics = predict_split(classifier, load_dataset('digits'), 1000).describe()
    assert metrics['count'] == 360 and round(100 * metrics['accuracy'], 2) == entry.accuracy == 99.44
    card = path.with_name('README.md').read_text()
    assert 'value: 0.99444' in card and 'resnet-jax train --config=quickstart' in card


def test_a_model_with_its_variables():
    model, variables = resnet_jax.create_model('resnet8', weights='resnet_jax/resnet8.digits')
    classifier = resnet_jax.load('resnet_jax/resnet8.digits')
    images = load_dataset('digits').test.image[:5]
    inputs = (images / np.float32(255) - np.float32(classifier.mean)[None, None, None]) / np.float32(classifier.std)[
        None, None, None
    ]
    logits = model.apply(variables, inputs, train=False)
    np.testing.assert_allclose(logits, classifier.logits(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r'weights of resnet8, not of resnet18; expected model=resnet8; torchvision/resnet18'):
        resnet_jax.create_model('resnet18', weights='resnet_jax/resnet8.digits')
    with pytest.raises(InputFileError, match=r'of another shape .*the nearest is resnet8 with num_classes=10'):
        resnet_jax.create_model('resnet8', 3, weights='resnet_jax/resnet8.digits')
    with pytest.raises(ConfigError, match="has no argument 'stm'"):
        resnet_jax.create_model('resnet8', weights='resnet_jax/resnet8.digits', stm=1)
    with pytest.raises(ConfigError, match='unknown model'):
        resnet_jax.create_model('resnet9', weights='resnet_jax/resnet8.digits')


def test_a_published_file_brings_its_preprocessing_and_classes(tmp_path, monkeypatch):
    """A file as akamaster's, with names of DataParallel under 'state_dict', put into the cache by hand."""
    entry = find_weights('akamaster/resnet20.cifar10')
    shapes = model_shapes(create_model('resnet20'), (32, 32, 3))
    tensors = {f'module.{torch_name(ours, "kuangliu")}': torch.ones(torch_shape(shape)) / 8 for ours, shape in shapes.items()}
    path = tmp_path / 'weights' / 'akamaster--resnet20.cifar10' / entry.url.rpartition('/')[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(torch_file({'state_dict': tensors, 'best_prec1': 91.73}))
    monkeypatch.setenv('RESNET_JAX_CACHE_DIR', str(tmp_path))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    hashed = hashlib.sha256(path.read_bytes()).hexdigest()
    changed = {**PUBLISHED, entry.name: published.PublishedWeights(**{**vars(entry), 'sha256': hashed})}
    monkeypatch.setattr(published, 'PUBLISHED', changed)
    classifier = Classifier.load(entry.name)
    assert classifier.class_names[:2] == ('airplane', 'automobile')
    assert (classifier.mean, classifier.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert classifier.origin.licence == 'bsd-2-clause' and classifier.origin.dataset == 'cifar10'
    classifier.save(tmp_path / 'own.safetensors')
    assert Classifier.load(tmp_path / 'own.safetensors').origin.licence == 'bsd-2-clause'
    with pytest.raises(
        ConfigError, match=r'not of resnet32; expected model=resnet20; chenyaofo/resnet32.cifar10 are of resnet32'
    ):
        Classifier.load(entry.name, model='resnet32')


@pytest.mark.slow
@pytest.mark.skipif('TFDS_DATA_DIR' not in os.environ, reason='needs CIFAR-10, JPEG copy')
@pytest.mark.parametrize(('layers', 'accuracy'), [(20, 81.03), (32, 82.56), (44, 82.67), (56, 83.20)])
def test_akamasters_accuracy_on_the_jpeg_copy(layers, accuracy, monkeypatch):
    """As in its own PyTorch code on the same bytes (README.md); needs the file in the cache."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    try:
        classifier = Classifier.load(f'akamaster/resnet{layers}.cifar10')
    except InputFileError as error:
        pytest.skip(str(error))
    metrics = predict_split(classifier, load_dataset('cifar10'), 1000).describe()
    assert round(100 * metrics['accuracy'], 2) == accuracy
