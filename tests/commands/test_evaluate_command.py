import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from commands_support import TINY, error_line, run

from resnet_jax.classifier import Classifier, Origin
from resnet_jax.cli.evaluate import _check_same_names
from resnet_jax.data import load_dataset
from resnet_jax.data.class_names import class_names
from resnet_jax.errors import ConfigError


@pytest.mark.slow
def test_it_prints_a_table_and_draws_the_confusion_matrix(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    done = run('evaluate.py', f'--workdir={workdir}', new_process=True)
    accuracy = json.loads((workdir / 'result.json').read_text())['accuracy']
    lines = done.stdout.splitlines()
    assert lines[0] == 'resnet8 after 88 iterations, digits test set, 360 images'
    assert lines[1] == f'accuracy  {100 * accuracy:.2f} %'
    assert [line.split()[0] for line in lines[4:14]] == list('0123456789')
    assert (workdir / 'plots' / 'confusion.png').read_bytes().startswith(b'\x89PNG')


def test_json_agrees_with_the_run_and_with_itself(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    metrics = json.loads(run('evaluate.py', f'--workdir={workdir}', '--json', devices=2).stdout)
    result = json.loads((workdir / 'result.json').read_text())
    assert metrics['loss'] == pytest.approx(result['loss'], rel=1e-5)
    confusion = np.array(metrics['confusion'])
    assert confusion.sum() == metrics['count'] == 360
    assert metrics['accuracy'] == np.trace(confusion) / 360 == result['accuracy']
    np.testing.assert_allclose(metrics['per_class_accuracy'], np.diag(confusion) / confusion.sum(axis=1))


def test_a_damaged_checkpoint_is_not_evaluated(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    largest = max((workdir / 'checkpoints' / '88').rglob('*'), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert 'are damaged' in error_line(run('evaluate.py', f'--workdir={workdir}', code=3))
    assert [p.name for p in (workdir / 'checkpoints').iterdir()] == ['88']  # it only reads


@pytest.mark.parametrize(
    ('flags', 'code', 'text'),
    [
        ([], 2, '--workdir'),
        (['--workdir=nowhere'], 3, 'nowhere'),
        (['--workdir=nowhere', 'extra'], 2, "'extra'"),
        (['--workdir=nowhere', '--tta=flip'], 2, 'none|mirror|mirror_translate'),
    ],
)
def test_bad_input_is_one_line(flags, code, text):
    assert text in error_line(run('evaluate.py', *flags, code=code))


@pytest.mark.parametrize('flag', ['cifar10c', 'cifar10_1', 'cifar10h'])
def test_the_published_sets_are_for_networks_of_cifar10(tiny_run, tmp_path, flag):
    error = error_line(run('evaluate.py', f'--workdir={tiny_run[0]}', f'--{flag}={tmp_path}', code=2))
    assert "expected one for CIFAR-10's 32 x 32 images" in error


def test_averaged_parameters_that_do_not_exist_are_refused(tiny_run):
    assert 'ema_decay' in error_line(run('evaluate.py', f'--workdir={tiny_run[0]}', '--ema', code=2))


def test_two_runs_are_compared_on_the_same_images(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    run('evaluate.py', f'--workdir={workdir}')  # writes predictions.npz
    actual = json.loads(run('evaluate.py', f'--workdir={workdir}', f'--compare={workdir}', '--json').stdout)['agreement']
    assert (actual['only_first'], actual['only_second'], actual['p'], actual['significant']) == (0, 0, 1.0, False)
    assert actual['both'] + actual['neither'] == actual['count'] == actual['same_class'] == 360
    other = shutil.copytree(workdir, tmp_path / 'other')
    (workdir / 'predictions.npz').unlink()
    (other / 'config.json').write_text('{"batch_size": "x"}')
    assert 'config.json' in error_line(run('evaluate.py', f'--workdir={workdir}', f'--compare={other}', code=3))
    assert not (workdir / 'predictions.npz').exists()  # refused before anything was evaluated
    line = error_line(run('evaluate.py', f'--workdir={workdir}', f'--compare={workdir}', code=3))
    assert 'predictions.npz is not there' in line and 'resnet-jax evaluate' in line


def test_views_are_averaged_as_by_hand_and_leave_the_folder_of_a_run_without_them_alone(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    before = (workdir / 'predictions.npz').read_bytes(), (workdir / 'evaluation.json').read_bytes()
    metrics = json.loads(run('evaluate.py', f'--workdir={workdir}', '--tta=mirror_translate', '--json').stdout)
    assert metrics['tta'] == 'mirror_translate' and 'plots' not in metrics
    assert ((workdir / 'predictions.npz').read_bytes(), (workdir / 'evaluation.json').read_bytes()) == before

    # Probabilities and logits differ in a constant of each view, which the softmax of the mean takes out again.
    trained, test = Classifier.load(workdir), load_dataset('digits').test
    padded = np.pad(test.image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')
    mean = np.zeros((360, 10))
    for weight, top in ((0.25, 1), (0.125, 0), (0.125, 2)):
        view = padded[:, top : top + 8, top : top + 8]
        mean += weight * (trained.log_probabilities(view) + trained.log_probabilities(view[:, :, ::-1]))
    mean -= np.log(np.exp(mean).sum(axis=1, keepdims=True))
    assert metrics['accuracy'] == (mean.argmax(axis=1) == test.label).mean()
    assert metrics['loss'] == pytest.approx(-mean[np.arange(360), test.label].mean(), rel=1e-4)


def test_corruptions_are_tabulated_drawn_and_kept(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run[0], tmp_path / 'run')
    done = run('evaluate.py', f'--workdir={workdir}', '--corruptions')
    actual = json.loads((workdir / 'corruptions.json').read_text())
    assert len(actual['errors']) == 15 and all(len(errors) == 5 for errors in actual['errors'].values())
    assert f'mean corruption error {100 * actual["mean_corruption_error"]:.2f} %' in done.stdout
    assert 'jpeg_compression' in done.stdout
    assert (workdir / 'plots' / 'corruptions.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_an_ensemble_of_runs(tiny_run, tmp_path):
    other = tmp_path / 'other'
    run('train.py', *TINY, '--config.seed=1', f'--workdir={other}')
    done = json.loads(run('evaluate.py', '--ensemble', tiny_run[0], other, '--json').stdout)
    alone = [json.loads((folder / 'result.json').read_text())['accuracy'] for folder in (tiny_run[0], other)]
    assert [member['accuracy'] for member in done['members']] == alone
    assert done['count'] == 360 and done['loss'] < max(member['loss'] for member in done['members'])
    text = run('evaluate.py', '--ensemble', tiny_run[0], other).stdout
    assert text.startswith('ensemble of 2 runs, digits test set') and text.count('alone: accuracy') == 2
    assert 'two run folders or more' in error_line(run('evaluate.py', '--ensemble', tiny_run[0], code=2))
    assert 'two run folders or more' in error_line(run('evaluate.py', '--ensemble', '--weights=a.pth', other, other, code=2))
    shutil.rmtree(other / 'checkpoints')  # known before any member is evaluated
    assert 'no checkpoint' in error_line(run('evaluate.py', '--ensemble', tiny_run[0], other, '--dataset=nowhere', code=3))


def test_another_data_set_is_named_and_must_have_the_same_class_names(tiny_run, tmp_path):
    digits = load_dataset('digits')
    parts = (digits.train.image[:100], digits.train.label[:100], digits.test.image[:50], digits.test.label[:50])
    names = [str(i) for i in range(10)]

    def saved(file, names, parts):
        keys = ('image', 'label', 'test_image', 'test_label')
        np.savez(tmp_path / file, class_names=names, **dict(zip(keys, parts, strict=True)))
        return f'arrays:{tmp_path / file}'

    flags = ('evaluate.py', f'--workdir={tiny_run[0]}')
    other = saved('other.npz', names, parts)
    done = run(*flags, f'--dataset={other}')
    assert done.stdout.splitlines()[0] == f'resnet8 after 88 iterations, {other} test set, 50 images'
    assert f'The data are not those that the run was trained on: {other}.' in done.stderr
    other = saved('renamed.npz', names[::-1], parts)
    line = error_line(run(*flags, f'--dataset={other}', code=2))
    ours, theirs = "'0', '1', '2', '3', '4', ...", "'9', '8', '7', '6', '5', ..."
    assert f'the network has the classes {ours} where {other} has {theirs}; expected the same class names' in line


def test_numbers_may_stand_for_names_and_the_runs_own_images_may_have_any():
    numbers, digits = tuple('0123456789'), load_dataset('digits')
    swapped = tuple({'cat': 'dog', 'dog': 'cat'}.get(name, name) for name in class_names('cifar10'))

    def check(trained_on, name, names, fingerprint=''):
        classifier = types.SimpleNamespace(class_names=trained_on, origin=Origin('', {}, fingerprint=fingerprint))
        _check_same_names(classifier, dataclasses.replace(digits, name=name, class_names=names))

    check(class_names('cifar10'), 'folder:x', numbers, digits.fingerprint)
    check(class_names('cifar10'), 'synthetic_cifar10', numbers)
    check(numbers, 'cifar10', class_names('cifar10'))
    check(numbers, 'cifar100', class_names('cifar100'))  # another number of classes has a line of its own
    check(class_names('cifar10'), 'folder:x', numbers)
    with pytest.raises(ConfigError, match="'cat', 'dog' where folder:x has 'dog', 'cat';"):
        check(class_names('cifar10'), 'folder:x', swapped)
