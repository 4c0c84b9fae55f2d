import json

import pytest

from resnet_jax.benchmark import layers, report, suites
from resnet_jax.benchmark.layers import Shape
from resnet_jax.benchmark.measure import Effort
from resnet_jax.benchmark.ours import inspect_program
from resnet_jax.errors import ConfigError, InputFileError, ResourceError, UserError


@pytest.fixture
def measured(monkeypatch):
    """Names, models and dtypes of what was measured; one network fails."""
    collected = []

    def measure(name, config, *, effort, peer, progress):
        collected.append((name, config['model'], config['dtype'], config['batch_size'], config['eval_batch_size']))
        if name == 'resnet20':
            raise UserError('no memory')
        return {'name': name, 'dtype': config['dtype'], 'batch_size': config['batch_size']}

    monkeypatch.setattr(suites, 'measure', measure)
    monkeypatch.setattr(suites, 'has_amx', lambda: False)
    return collected


def run(path, networks=(), said=None):
    return suites.cpu_suite(path, Effort(1, 0.1), networks, 128, (said if said is not None else []).append)


def test_six_networks_are_measured_and_a_failure_ends_nothing(measured, tmp_path):
    said = []
    rows = run(str(tmp_path / 'cpu.json'), said=said)
    assert [name for name, *_ in measured] == ['resnet18', 'resnet20', 'resnet50', 'd2l_resnet18', 'alexnet', 'wrn_16_4']
    assert all(name == model and rest == ['float32', 128, 128] for name, model, *rest in measured)
    assert [row['name'] for row in rows if 'error' in row] == ['resnet20'] and all('time' in row for row in rows)
    assert 'no AMX: bfloat16 is not measured' in said and 'resnet18, float32: 1 of 6; about 13 minutes left' in said
    assert json.loads((tmp_path / 'cpu.json').read_text()) == rows


def test_what_a_file_has_is_not_measured_again(measured, tmp_path):
    path = str(tmp_path / 'cpu.json')
    run(path, ['resnet18', 'resnet20'])
    del measured[:]
    rows = run(path, ['resnet18', 'resnet20', 'alexnet'])
    assert [name for name, *_ in measured] == ['resnet20', 'alexnet']
    assert [row['name'] for row in rows] == ['resnet18', 'resnet20', 'alexnet']


def test_bfloat16_where_the_cpu_has_it(measured, monkeypatch):
    monkeypatch.setattr(suites, 'has_amx', lambda: True)
    run(None, ['alexnet'])
    assert [dtype for _, _, dtype, *_ in measured] == ['float32', 'bfloat16']


@pytest.mark.parametrize('text', ['{', '[1]', '[{}]', '{"parts": {}}'])
def test_a_file_of_something_else_is_refused(measured, tmp_path, text):
    (tmp_path / 'cpu.json').write_text(text)
    with pytest.raises(InputFileError, match='is not what this suite writes'):
        run(str(tmp_path / 'cpu.json'))


def test_an_unknown_network_is_refused(measured):
    with pytest.raises(ConfigError, match="no network 'resnet21' in the suite; expected some of resnet18,"):
        run(None, ['resnet21'])


def test_configs_that_cannot_be_had_say_why(tmp_path):
    assert suites.find_config(str(tmp_path / 'none.py')).startswith(f"no config file '{tmp_path}/none.py'")
    (tmp_path / 'bad.py').write_text('def get_config(): return 1 / 0')
    assert 'ZeroDivisionError' in suites.find_config(str(tmp_path / 'bad.py'))
    assert suites.find_config('configs/quickstart.py')['dataset'] == 'digits'


def test_shapes_of_convolutions():
    assert layers.parse_shapes(['8x3x16', '32x64x128x1x2']) == [Shape(8, 3, 16, 3, 1), Shape(32, 64, 128, 1, 2)]
    assert layers.parse_shapes(['all']) == list(layers.SHAPES)


@pytest.mark.parametrize('text', ['8x3', '8x3x0', '8x3x3x3x1x1', 'axbxc', '', '1x3x3x4'])
def test_other_shapes_are_refused(text):
    with pytest.raises(ConfigError, match='is not the shape of a convolution'):
        layers.parse_shapes([text])


PROGRAM = """
  %cudnn-conv.1 = (bf16[512,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), custom_call_target="__cudnn$convForward"
  ROOT %while.5 = (s32[], f32[3]{0}) while(%t), condition=%c, body=%b
  %c2 = f32[1,2]{1,0} convolution(%x, %y), window={size=3x3}
  %s = f32[] scatter(%a, %b, %c), to_apply=%x
  %t = f32[8,8]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm"
"""


def test_a_compiled_program_is_counted():
    collected = {name: count for name, count in inspect_program(PROGRAM).items() if count}
    convolutions = {'custom-call __cudnn$convForward bf16': 1, 'convolution f32': 1}
    assert collected == {'while': 1, 'scatter': 1, 'custom-call __cublas$gemm': 1, **convolutions}


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ResourceError, match='cannot be written'):
        report.save(tmp_path / 'none' / 'rows.json', [])
