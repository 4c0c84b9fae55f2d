import json
import os
import re
from pathlib import Path

import pytest
import torch
from commands_support import error_line, run

from resnet_jax.weights import load_variables

TINY_MODEL = ('--model=resnet8', '--model_kwargs=num_filters=4', '--model_kwargs=stage_sizes=[1,1]')


@pytest.fixture(scope='module')
def state_dict(tiny_run, tmp_path_factory):
    """The tiny run's weights, written for PyTorch."""
    out = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    done = run('convert.py', f'--workdir={tiny_run[0]}', '--to=torch', f'--out={out}', new_process=True)
    assert re.fullmatch(rf'resnet8, 10 classes, as torch: {out}, \d+\.\d MB\n', done.stdout)
    return out


def test_a_run_converted_and_evaluated_as_foreign_weights_is_as_accurate(tiny_run, state_dict):
    assert set(torch.load(state_dict, weights_only=True)) > {'conv1.weight', 'bn1.num_batches_tracked', 'layer2.0.conv2.weight'}
    expected = json.loads((tiny_run[0] / 'result.json').read_text())
    done = run('evaluate.py', f'--weights={state_dict}', *TINY_MODEL, '--dataset=digits', '--json')
    metrics = json.loads(done.stdout)
    assert metrics['accuracy'] == expected['accuracy'] and metrics['count'] == 360
    assert metrics['loss'] == pytest.approx(expected['loss'], rel=1e-5)


def test_a_file_of_ours_says_all_that_evaluation_needs(tiny_run, state_dict, tmp_path):
    out, back = tmp_path / 'tiny.safetensors', tmp_path / 'back.pth'
    run('convert.py', f'--workdir={tiny_run[0]}', f'--out={out}')
    metadata = load_variables(out)[2]
    assert metadata['class_names'] == list('0123456789') and len(metadata['mean']) == len(metadata['std']) == 1
    done = run('evaluate.py', f'--weights={out}', '--dataset=digits')
    accuracy = json.loads((tiny_run[0] / 'result.json').read_text())['accuracy']
    assert done.stdout.splitlines()[0] == f'resnet8 from {out}, digits test set, 360 images'
    assert done.stdout.splitlines()[1] == f'accuracy  {100 * accuracy:.2f} %'
    run('convert.py', f'--from={out}', f'--out={back}')
    assert back.read_bytes() == state_dict.read_bytes()


def test_a_file_is_converted_with_what_the_flags_say(state_dict, tmp_path):
    out = tmp_path / 'new' / 'tiny.safetensors'
    run('convert.py', f'--from={state_dict}', *TINY_MODEL, '--image_shape=8,8,1', '--normalization=none', f'--out={out}')
    metadata = load_variables(out)[2]
    assert metadata['model_kwargs'] == {'num_filters': 4, 'stage_sizes': [1, 1]} and metadata['image_shape'] == [8, 8, 1]
    assert (metadata['mean'], metadata['std']) == ([0.0], [1.0])
    actual = json.loads(run('evaluate.py', f'--weights={out}', '--dataset=digits', '--json').stdout)
    assert (actual['mean'], actual['std']) == ([0.0], [1.0])  # as the file says, and not the data set's


def test_a_normalization_that_nobody_named_is_not_noted(state_dict, tmp_path):
    out = tmp_path / 'tiny.safetensors'
    run('convert.py', f'--from={state_dict}', *TINY_MODEL, '--image_shape=8,8,1', f'--out={out}')
    assert not load_variables(out)[2].keys() & {'mean', 'std'}


def test_the_wrong_model_is_refused_with_every_difference(state_dict, tmp_path):
    out = tmp_path / 'x.pth'
    done = run('convert.py', f'--from={state_dict}', '--model=resnet20', f'--out={out}', code=3)
    assert 'does not fit resnet20: ' in error_line(done) and 'the nearest is resnet8' in error_line(done)
    assert 'missing: layer3.0.conv1.weight [64, 32, 3, 3]' in done.stderr
    assert not out.exists()


class Gadget:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f'touch {self.canary}',)


@pytest.mark.parametrize('script', ['convert.py', 'evaluate.py'])
def test_a_malicious_file_runs_nothing(script, tmp_path):
    canary, path = tmp_path / 'canary', tmp_path / 'model.pth'
    torch.save({'state_dict': {'a': torch.ones(1)}, 'x': Gadget(canary)}, path)
    flags = {'convert.py': (f'--from={path}', '--out=x.pth'), 'evaluate.py': (f'--weights={path}', '--dataset=digits')}
    error = error_line(run(script, *flags[script], '--model=resnet20', code=3))
    assert "'posix.system', which was not run" in error and not canary.exists()
    torch.load(path, weights_only=False)  # it would have worked
    assert canary.exists()


@pytest.mark.parametrize(
    ('flags', 'code', 'text'),
    [
        ([], 2, '--from'),
        (['--from=a.pth', '--workdir=b', '--out=c.pth'], 2, 'either'),
        (['--from=a.pth', '--out=b.bin'], 2, '--to=torch or --to=safetensors'),
        (['--from=a.pth', '--out=b.pth', 'extra'], 2, "'extra'"),
        (['--from=nowhere.pth', '--out=b.pth', '--model=resnet20'], 3, 'nowhere.pth'),
        (['--from={file}', '--out=b.pth'], 2, 'model=NAME'),
        (['--from={file}', '--out=b.pth', '--model=resnet20', '--model_kwargs=stem'], 2, 'FIELD=VALUE'),
        (['--from={file}', '--out=b.pth', '--model=resnet20', '--image_shape=32'], 2, 'height,width,channels'),
    ],
)
def test_bad_input_is_one_line(flags, code, text, state_dict, tmp_path):
    flags = [flag.format(file=state_dict).replace('--out=', f'--out={tmp_path}/') for flag in flags]
    assert text in error_line(run('convert.py', *flags, code=code))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('flags', 'text'),
    [
        (['--normalization=imagnet'], "did you mean 'imagenet'"),
        (['--normalization=imagenet'], 'channels'),
        (['--workdir=runs/x'], '--workdir'),
    ],
)
def test_bad_flags_of_the_evaluation_are_one_line(flags, text, state_dict):
    assert text in error_line(run('evaluate.py', f'--weights={state_dict}', *TINY_MODEL, '--dataset=digits', *flags, code=2))


def test_a_file_of_weights_is_no_run_folder(state_dict):
    assert f'no run in {state_dict}' in error_line(run('evaluate.py', f'--workdir={state_dict}', code=3))


# github.com/akamaster/pytorch_resnet_cifar10, folder pretrained_models. In percent: what its own PyTorch code makes of them
# on the test set of CIFAR-10 as it was prepared with JPEG images, so not quite what its README says.
PUBLISHED = {'resnet20-12fca82f': 81.03, 'resnet32-d509ac18': 82.56, 'resnet44-014dd654': 82.67, 'resnet56-4bfd9763': 83.20}


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_weights_are_as_accurate_as_in_pytorch(name):
    folder = os.environ.get('RESNET_JAX_TORCH_WEIGHTS')
    if not folder:
        pytest.skip('RESNET_JAX_TORCH_WEIGHTS is not set to a folder with the published files')
    flags = f'--weights={Path(folder, f"{name}.th")}', f'--model={name.split("-")[0]}', '--normalization=imagenet'
    done = run('evaluate.py', *flags, timeout=600)
    assert done.stdout.splitlines()[1] == f'accuracy  {PUBLISHED[name]:.2f} %'
