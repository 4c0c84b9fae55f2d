import dataclasses
import functools
import hashlib
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import torch_reference as T
from weight_files import torch_file

import resnet_jax
from resnet_jax.classifier import Classifier, Origin
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.models import create_model
from resnet_jax.network import build_model
from resnet_jax.runs import checkpoint
from resnet_jax.training import trainer
from resnet_jax.training.api import Callback
from resnet_jax.training.experiment import create_experiment
from resnet_jax.training.finetune import RECORD, begin, finetuning_config
from resnet_jax.training.loop import train_and_evaluate
from resnet_jax.training.seeds import train_seeds
from resnet_jax.weights.hub import fetch
from resnet_jax.weights.names import flatten
from resnet_jax.weights.published import find_weights

pytestmark = pytest.mark.usefixtures('quick_compilation')

KWARGS = {'stage_sizes': (1, 1), 'num_filters': 4}
DATA = tiny.dataset(train=48)  # 8x8, one channel, three classes
GREY, COLOUR = DATA.info, tiny.dataset(channels=3).info


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tiny.register(monkeypatch, DATA)
    monkeypatch.setattr(trainer, 'plot_so_far', lambda folder: None)


def network(num_classes=5, channels=1, **kwargs):
    """A classifier with random weights, none of them at its initial value."""
    model = create_model('resnet8', num_classes, **{**KWARGS, **kwargs})
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 8, 8, channels)), train=False), jax.random.key(0))
    rng = np.random.default_rng(7)
    return Classifier(
        model,
        jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), dict(shapes)),
        image_shape=(8, 8, channels),
        class_names=tuple('abcdefghij'[:num_classes]),
        mean=(0.2,) * channels,
        std=tuple(0.1 * (i + 1) for i in range(channels)),
        origin=Origin('resnet8', {**KWARGS, **kwargs}),
    )


def config(**overrides):
    return tiny.checked(**{'model_kwargs': dict(KWARGS), 'warmup_epochs': 0.5, **overrides})


def start_of(tmp_path, path, info=GREY, **overrides):
    info, start = begin(config(init_from=str(path), **overrides), info, tmp_path / 'run')
    return info, start, ' '.join(start.describe(DATA))


def torch_network(sizes, channels, num_classes):
    module = T.ResNet(T.BasicBlock, sizes, 4, 'cifar', 'identity', num_classes=num_classes)
    module.conv1 = torch.nn.Conv2d(channels, 4, 3, padding=1, bias=False)
    return T.randomise(module)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_all_but_the_head_comes_from_a_file_and_the_record_says_so(tmp_path, suffix):
    classifier = network()
    classifier.save(path := tmp_path / f'weights{suffix}')
    info, start, text = start_of(tmp_path, path)
    theirs = flatten(classifier.variables)
    assert {*theirs} - {*start.arrays} == {'params/fc/kernel', 'params/fc/bias'} == {*start.record['not_loaded']}
    assert start.record['unused'] == sorted(start.record['not_loaded'])  # their head
    for name, array in start.arrays.items():
        np.testing.assert_array_equal(array, theirs[name])
    state = create_experiment(config(init_from=str(path)), info, start=start).create_state()
    for name, array in flatten(state.variables).items():
        assert np.array_equal(array, theirs[name]) == (not name.startswith('params/fc/')), name
    assert start.record['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest() and start.record['head'] == 'new'
    assert json.loads(json.dumps(start.record)) == start.record
    named = suffix == '.safetensors'  # which knows its classes and preprocessing
    assert (info.mean, info.std) == (((0.2,), (0.1,)) if named else (GREY.mean, GREY.std))
    assert f'5 classes{" (a, b, c, d, e)" * named}, stripes has 3 classes (top, middle, bottom)' in text
    assert ('that of the weights, mean 0.2' if named else 'if you know it, set normalization') in text


def test_weights_by_name_are_recorded_as_the_file_that_they_are(tmp_path):
    published = find_weights('resnet_jax/resnet8.digits')
    file = fetch(published)
    _, start, text = start_of(tmp_path, published.name, model_kwargs={})
    assert (start.record['source'], start.record['file']) == (published.name, str(file))
    assert start.record['sha256'] == hashlib.sha256(file.read_bytes()).hexdigest() == published.sha256
    assert f'Starts from {published.name} ({file}, SHA-256 {published.sha256[:12]}...)' in text
    changed = resnet_jax.load(published.name).with_classes(('a', 'b', 'c'))  # no longer what is in the file
    assert changed.origin.path == published.name and not changed.origin.file


def test_the_head_is_kept_where_it_fits_unless_a_new_one_is_asked_for(tmp_path):
    network(3).save(path := tmp_path / 'weights.safetensors')
    _, start, text = start_of(tmp_path, path)
    assert start.record['not_loaded'] == [] and 'kept: the weights have 3 classes (a, b, c)' in text and 'names differ' in text
    _, start, text = start_of(tmp_path, path, init_head='new')
    assert start.record['not_loaded'] == ['params/fc/bias', 'params/fc/kernel'] and 'The head is new' in text
    network(5).save(path)
    with pytest.raises(ConfigError, match=r'a head for 5 classes \(a, b, c, d, e\), and stripes has 3 .* init_head=auto for a'):
        start_of(tmp_path, path, init_head='keep')


@pytest.mark.parametrize(('theirs', 'info'), [(3, GREY), (1, COLOUR)])
def test_weights_for_another_number_of_channels_give_the_same_for_images_of_equal_channels(tmp_path, theirs, info):
    classifier = network(3, theirs)
    classifier.save(path := tmp_path / 'weights.safetensors')
    info, start, text = start_of(tmp_path, path, info)
    ours = info.image_shape[-1]
    assert f'conv1/kernel is for {theirs} channels, and here are {ours}: ' in text
    assert ('summed' if ours == 1 else 'repeated and divided by 3') in text
    model = build_model(config(), 3, info.image_shape)
    image = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    nested = create_experiment(config(init_from=str(path)), info, start=start).create_state().variables
    logits = [
        net.apply(variables, np.repeat(image, channels, 3), train=False)
        for net, variables, channels in ((classifier.model, classifier.variables, theirs), (model, nested, ours))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)
    assert info.std == ((pytest.approx(0.2),) if ours == 1 else (0.1,) * 3)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_file_of_pytorch_says_by_its_shapes_how_many_channels_it_is_for(tmp_path, channels):
    module = torch_network((1, 1), channels, 5)
    (path := tmp_path / 'weights.pth').write_bytes(torch_file(module.state_dict()))
    _, start, text = start_of(tmp_path, path)
    expected = module.state_dict()['conv1.weight'].numpy().transpose(2, 3, 1, 0).sum(2, keepdims=True)
    np.testing.assert_allclose(start.arrays['params/conv1/kernel'], expected, rtol=1e-6)
    assert ('for 3 channels' in text) == (channels == 3)


def test_layers_of_another_network_are_loaded_by_a_pattern(tmp_path):
    deeper = torch_network((2, 3), 1, 9)
    (path := tmp_path / 'weights.pth').write_bytes(torch_file({'state_dict': deeper.state_dict()}))
    _, start, text = start_of(tmp_path, path, init_only='conv1, bn1, layer1_0')
    names = {name.split('/')[1] for name in start.arrays}
    assert names == {'conv1', 'bn1', 'layer1_0'} and len(start.arrays) == 5 + 2 * 5
    theirs = deeper.state_dict()['layer1.0.conv2.weight'].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(start.arrays['params/layer1_0/conv2/kernel'], theirs)
    assert 'new: fc, layer2_0/bn1' in text and 'The head is new' in text


def test_weights_that_cannot_be_started_from(tmp_path):
    network(num_filters=6).save(other := tmp_path / 'other.safetensors')
    with pytest.raises(InputFileError, match=r'other.safetensors \(resnet8, .*num_filters=6\) does not fit .*expected model='):
        start_of(tmp_path, other)
    network().save(path := tmp_path / 'weights.safetensors')
    with pytest.raises(InputFileError, match=r'does not fit the network for .*expected model=resnet8 and its model_kwargs, or'):
        start_of(tmp_path, path, model='resnet18', model_kwargs={})
    with pytest.raises(ConfigError, match=r"init_only has 'layer9_\*', which matches no layer.*expected a pattern such as"):
        start_of(tmp_path, path, init_only='layer9_*')
    with pytest.raises(InputFileError, match='there is no such folder or file; expected a run folder, weights as'):
        start_of(tmp_path, tmp_path / 'nothing')
    with pytest.raises(ConfigError, match=r"normalization is 'imagent'; did you mean 'imagenet'\?"):
        start_of(tmp_path, path, normalization='imagent')
    with pytest.raises(InputFileError, match='no run in'):
        start_of(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="init_head is 'new' and there are no weights; expected init_from with it"):
        config(init_head='new')


def test_normalization_may_be_told(tmp_path):
    network().save(path := tmp_path / 'weights.safetensors')
    assert start_of(tmp_path, path, normalization='dataset')[0].mean == GREY.mean
    assert start_of(tmp_path, path, normalization='half')[0] == dataclasses.replace(GREY, mean=(0.5,), std=(0.5,))
    info, start = begin(config(normalization='half'), COLOUR, tmp_path)
    assert (info.mean, start) == ((0.5,) * 3, None)
    assert begin(config(), GREY, tmp_path) == (GREY, None)


RUN = {
    'num_epochs': 3,
    'freeze': 'backbone',
    'unfreeze_epochs': (1, 2),
    'layer_decay': 0.5,
    'ema_decay': 0.5,
    'optimizer': 'adam',
    'learning_rate': 0.01,
    'log_every': 2,
    'model_kwargs': {'stage_sizes': (1,), 'num_filters': 2},
}
WEIGHTS = functools.partial(network, stage_sizes=(1,), num_filters=2)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The weights' file, and the folder of a run that started from it; with as much as possible to remember."""
    folder = tmp_path_factory.mktemp('whole')
    WEIGHTS().save(folder / 'weights.safetensors')
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch, DATA)
        patch.setattr(trainer, 'plot_so_far', lambda folder: None)
        patch.chdir(folder)
        result = train_and_evaluate(config(init_from='weights.safetensors', **RUN), folder / 'run')
    return folder, result


def state_at(workdir, step):
    with checkpoint._checkpointer() as checkpointer:
        tree = checkpointer.restore((workdir / 'checkpoints' / str(step) / 'arrays').absolute())
    return {name: np.asarray(leaf) for name, leaf in checkpoint.leaves_by_name(tree).items()}


@pytest.mark.slow
def test_layers_train_from_their_epoch_on(whole):
    folder, _ = whole
    assert checkpoint.steps(folder / 'run' / 'checkpoints') == [6, 9]
    first, last = (state_at(folder / 'run', step) for step in (6, 9))
    start = flatten(WEIGHTS().variables)
    for name, array in start.items():
        stem = name.split('/')[1] in ('conv1', 'bn1')
        if 'fc' not in name:
            assert (first[name].tobytes() == array.tobytes()) == stem, name
            assert last[name].tobytes() != array.tobytes(), name
            assert (first[f'ema/{name}'].tobytes() == array.tobytes()) == stem
    assert not [name for name in first if name.startswith('opt_state') and 'conv1/' in name and 'layer1_0' not in name]
    assert [name for name in last if name.startswith('opt_state') and name.endswith('/mu/conv1/kernel')]


def test_the_run_keeps_what_it_started_from(whole):
    folder, result = whole
    record = json.loads((folder / 'run' / RECORD).read_text())
    assert record['sha256'] == hashlib.sha256((folder / 'weights.safetensors').read_bytes()).hexdigest()
    log = (folder / 'run' / 'run.log').read_text()
    assert f'Starts from weights.safetensors (weights.safetensors, SHA-256 {record["sha256"][:12]}...): 15 of 17 arrays' in log
    assert 'From epoch 1 on' in log and 'From epoch 2 on all parameters train.' in log
    assert resnet_jax.load(folder / 'run').mean == result.classifier.mean == (pytest.approx(0.2),)


@pytest.mark.parametrize('step', [4, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 8))])
def test_an_interrupted_run_continues_to_the_bit_without_the_weights(whole, tmp_path, monkeypatch, step):
    """In its first epoch, after the first layers have started to train, and after all have."""

    class Crash(Callback):
        def on_step(self, number, metrics):
            if number == step:
                raise RuntimeError('power cut')

    shutil.copy(whole[0] / 'weights.safetensors', tmp_path)
    monkeypatch.chdir(tmp_path)
    checked = config(init_from='weights.safetensors', **RUN)
    with pytest.raises(RuntimeError, match='power cut'):
        train_and_evaluate(checked, 'run', callbacks=[Crash()])
    (tmp_path / 'weights.safetensors').unlink()
    result = train_and_evaluate(checked, 'run')
    ours, theirs = state_at(tmp_path / 'run', 9), state_at(whole[0] / 'run', 9)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == (whole[0] / 'run' / 'metrics.jsonl').read_bytes()
    assert {**result.result, 'seconds': 0} == {**whole[1].result, 'seconds': 0}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'cannot be read .*without which a run cannot continue; restore it'),
        ('{"mean": ["x"], "std": [1]}', 'is not what a run writes'),
        ('{"mean": [1], "std": [0]}', 'is not what a run writes'),
        ('[1]', 'is not what a run writes'),
        *((f'{{"image_shape": {shape}}}', 'is not what a run writes .*image_shape') for shape in ('5', '{"a": 1}', '["x"]')),
        ('{"notes": 5}', 'is not what a run writes .*notes'),
    ],
)
def test_a_record_that_no_run_wrote(whole, tmp_path, text, message):
    workdir = shutil.copytree(whole[0] / 'run', tmp_path / 'run')
    (workdir / 'result.json').unlink()
    (workdir / RECORD).unlink() if text is None else (workdir / RECORD).write_text(text)
    with pytest.raises(InputFileError, match=message):
        train_and_evaluate(config(init_from='weights.safetensors', **RUN), workdir)


def test_other_weights_are_another_run(whole, tmp_path):
    workdir = shutil.copytree(whole[0] / 'run', tmp_path / 'run')
    with pytest.raises(ConfigError, match=r"init_from: 'weights\.safetensors' -> 'other\.pth'"):
        train_and_evaluate(config(init_from='other.pth', **RUN), workdir)


def test_a_run_starts_from_another_run_or_its_averages_and_seeds_share_it(whole, tmp_path):
    folder = whole[0] / 'run'
    last, sums = state_at(folder, 9), (folder / 'checkpoints' / '9' / 'SHA256SUMS').read_bytes()
    for ema, prefix in ((False, ''), (True, 'ema/')):
        _, start, _ = start_of(tmp_path, folder, init_ema=ema, model_kwargs=RUN['model_kwargs'])
        assert start.record['sha256'] == hashlib.sha256(sums).hexdigest()
        assert start.record['file'] == str(folder / 'checkpoints' / '9') and start.record['not_loaded'] == []
        for name, array in start.arrays.items():
            np.testing.assert_array_equal(array, last[prefix + name])


@pytest.mark.slow
def test_seeds_in_one_program_start_from_the_same_weights(whole, tmp_path):
    checked = config(
        init_from=str(whole[0] / 'weights.safetensors'), num_epochs=1, freeze='backbone', model_kwargs=RUN['model_kwargs']
    )
    train_seeds(checked, tmp_path, 2, together=True)
    first, second = (state_at(tmp_path / f'seed{seed}', 3) for seed in (0, 1))
    same = {name for name in first if name.startswith('params/') and first[name].tobytes() == second[name].tobytes()}
    assert {name for name in first if name.startswith('params/')} - same == {'params/fc/kernel', 'params/fc/bias'}
    with pytest.raises(ConfigError, match='cannot be trained together with unfreeze_epochs'):
        train_seeds(config(freeze='backbone', unfreeze_epochs=(1,)), tmp_path / 'b', 2, together=True)


def test_a_classifier_is_trained_on_other_data_from_python(tmp_path, caplog):
    classifier = network()
    caplog.set_level(logging.INFO)
    options = {'num_epochs': 1, 'freeze': 'backbone', 'batch_size': 16, 'base_batch_size': 0, 'warmup_epochs': 0.0}
    result = classifier.finetune(DATA, tmp_path / 'run', crop_padding=0, **options)
    tuned = result.classifier
    assert tuned.class_names == DATA.class_names and (tuned.mean, tuned.std) == (classifier.mean, classifier.std)
    ours, theirs = flatten(tuned.variables), flatten(classifier.variables)
    assert {name for name in ours if not np.array_equal(ours[name], theirs[name])} == {'params/fc/kernel', 'params/fc/bias'}
    again = classifier.finetune(DATA, tmp_path / 'run', crop_padding=0, **options)
    assert again.result == result.result
    with pytest.raises(ConfigError, match=r"unknown config field 'frieze'; did you mean 'freeze'\?"):
        classifier.finetune(DATA, tmp_path / 'other', frieze='backbone')
    with pytest.raises(ConfigError, match='does not know its model by name'):
        dataclasses.replace(classifier, origin=Origin('', {})).finetune('digits', tmp_path / 'other')


def test_the_recipe_is_that_of_the_run_unless_another_is_given(whole):
    classifier = resnet_jax.load(whole[0] / 'run')
    tuned = finetuning_config(classifier, 'digits', None, {'num_epochs': 7})
    assert (tuned.dataset, tuned.model_kwargs['num_filters'], tuned.num_epochs) == ('digits', 2, 7)
    assert (tuned.crop_padding, tuned.optimizer, tuned.batch_size) == (1, 'adam', 16)  # of the run
    assert (tuned.learning_rate, tuned.freeze, tuned.unfreeze_epochs) == (pytest.approx(0.001), '', ())
    assert tuned.init_from == classifier.origin.path
    given = finetuning_config(classifier, 'digits', resnet_jax.TrainConfig(flip=False, num_epochs=50), {})
    assert (given.flip, given.num_epochs, given.learning_rate, given.crop_padding) == (False, 50, 0.1, 4)


@pytest.mark.slow
def test_parameters_for_a_loop_of_ones_own():
    classifier = network(channels=3)
    other = classifier.with_classes(('cat', 'dog'), image_shape=(12, 12, 1), seed=3)
    assert other.class_names == ('cat', 'dog') and other.image_shape == (12, 12, 1) and len(other.mean) == 1
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    pooled = [
        resnet_jax.features(each.model, each.variables, np.repeat(image, channels, 3))['pooled']
        for each, channels in ((classifier, 3), (other, 1))
    ]
    np.testing.assert_allclose(*pooled, rtol=1e-4)
    assert other.logits(np.zeros((3, 12, 12, 1), np.uint8)).shape == (3, 2)
    logits = torch.tensor(np.asarray(pooled[1])) @ torch.tensor(np.asarray(other.variables['params']['fc']['kernel']))
    ours = other.model.apply(other.variables, image, train=False)  # the bias of a new head is 0
    np.testing.assert_allclose(ours, logits.numpy(), rtol=1e-4, atol=1e-5)
