"""Published weights and those of a hub, as a user has them: by name, once over the network, then without."""

import json

import numpy as np
import pytest
from commands_support import error_line, run
from hub_server import Hub
from PIL import Image

import resnet_jax

OWN = 'resnet_jax/resnet8.digits'


@pytest.fixture(scope='module')
def digit(tmp_path_factory):
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp('digit') / 'three.png'
    Image.fromarray((load_digits().images[3] * 255 / 16).astype(np.uint8)).save(path)
    return path


def test_the_package_predicts_without_a_network_or_a_run(digit, tmp_path):
    offline = {'HF_HUB_OFFLINE': '1', 'RESNET_JAX_CACHE_DIR': str(tmp_path)}
    done = run('predict.py', f'--weights={OWN}', '--top=1', digit, **offline)
    assert done.stdout.startswith(f'{digit}: 3 ')
    done = run('evaluate.py', f'--weights={OWN}', '--json', **offline)
    metrics = json.loads(done.stdout)
    assert round(metrics['accuracy'], 4) == metrics['published_accuracy'] == 0.9944 and metrics['count'] == 360


@pytest.mark.slow
def test_a_run_goes_to_a_hub_and_comes_back_by_name(tiny_run, digit, tmp_path):
    out, workdir = tmp_path / 'exported', tiny_run[0]
    done = run('export.py', f'--workdir={workdir}', f'--out={out}', '--format=safetensors')
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == [
        str(out / name) for name in ('model.safetensors', 'config.json', 'README.md')
    ]
    config, result = json.loads((out / 'config.json').read_text()), json.loads((workdir / 'result.json').read_text())
    assert config['result']['accuracy'] == result['accuracy'] and config['model'] == 'resnet8'
    assert f"    sha256='{config['sha256']}',\n" in done.stdout and "    licence='apache-2.0',\n" in done.stdout
    assert 'license: apache-2.0' in (out / 'README.md').read_text()

    hub = Hub(**{'someone/digits': (out / 'model.safetensors').read_bytes()})
    cache = {'HF_ENDPOINT': hub.url, 'RESNET_JAX_CACHE_DIR': str(tmp_path / 'cache'), 'HF_HOME': str(tmp_path / 'hf')}
    wanted = run('predict.py', f'--workdir={workdir}', '--json', digit).stdout
    by_name = '--weights=hf://someone/digits', '--json', digit
    assert run('predict.py', *by_name, **cache).stdout == wanted
    hub.close()
    assert run('predict.py', *by_name, HF_HUB_OFFLINE='1', **cache).stdout == wanted
    assert resnet_jax.load(out).describe() == resnet_jax.load(workdir).describe()


@pytest.mark.parametrize(
    ('arguments', 'code', 'text'),
    [
        pytest.param(
            ['predict.py', '--weights=timm/resnet50.a1', 'x.png'],
            2,
            "no weights are called 'timm/resnet50.a1'; did you mean",
            marks=pytest.mark.slow,
        ),
        (['predict.py', '--weights=timm/resnet18.a1_in1k', 'x.png'], 3, 'HF_HUB_OFFLINE is set'),
        (['evaluate.py', '--weights=timm/resnet18.a1_in1k'], 2, 'were trained on ImageNet, which is no data set here'),
    ],
)
def test_a_mistake_is_one_line(arguments, code, text, tmp_path):
    assert text in error_line(run(*arguments, code=code, HF_HUB_OFFLINE='1', RESNET_JAX_CACHE_DIR=str(tmp_path)))
