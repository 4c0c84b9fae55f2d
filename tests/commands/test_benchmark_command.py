import json
import re

import pytest
from commands_support import error_line, run

from configs import resnet18
from resnet_jax.benchmark.command import measure_startup
from resnet_jax.config import TrainConfig

TINY = '--config=configs/resnet20.py', '--config.model=resnet8', '--config.batch_size=8', '--config.eval_batch_size=8'


@pytest.mark.slow
def test_both_steps_are_timed_beside_torch(tmp_path):
    path = tmp_path / 'result.json'
    out = run('benchmark.py', *TINY, '--peer=torch', '--variants=eager', '--rounds=2', '--seconds=0.2', f'--json={path}').stdout
    assert 'synthetic' in out and 'torch' in out
    (row,) = json.loads(path.read_text())
    assert row['dataset'] == 'synthetic_cifar10' and row['facts']['parameters'] == 75290
    for step in ('train', 'eval'):
        ours, theirs, ratio = row[step]['images_per_second'], row[step]['torch']['images_per_second'], row[step]['ratio']
        assert ours['n'] == theirs['n'] and 0 < ours['low'] <= ours['median'] <= ours['high']
        assert ours['low'] / theirs['high'] <= ratio['median'] <= ours['high'] / theirs['low']
        assert 0 < row[step]['share_of_matrix_product'] < 4  # Winograd's form needs down to a quarter of the multiplications


@pytest.mark.parametrize(
    'flags',
    [
        ['--peer=tensorflow'],
        ['--devices=0'],
        ['--rounds=0'],
        ['--config.batch_size=-1'],
        ['--layers=8x8'],
        ['--augmentations=blur'],
        ['--augmentations=flip', '--layers=8x8x8'],
        ['--suite=cpu'],
        ['--suite=tpu'],
        ['--steps=test'],
        ['--seeds=1'],
        ['--seeds=2', '--own_loops'],
        ['--seconds=nan'],
        ['--seconds=inf'],
        ['--minutes=nan'],
        ['--suite=gpu', '--devices=2'],
        ['--layers=8x8x8', '--peer=torch'],
        ['--networks=resnet18'],
        ['--workers=2'],
        ['--requests=9'],
        ['--serving=runs/a', '--peer=torch'],
        ['--decoding=no/such/folder', '--layers=8x8x8'],
        ['--json=no/such/folder/rows.json'],
    ],
)
def test_bad_input_is_one_line(flags):
    error_line(run('benchmark.py', *TINY, *flags, code=2))


@pytest.mark.slow
def test_single_convolutions_are_timed_beside_xla_and_torch(tmp_path):
    path = tmp_path / 'layers.json'
    flags = '--layers=8x8x8,8x8x4x1x2', '--batch_sizes=2', '--rounds=2', '--seconds=0.02', f'--json={path}'
    out = run('benchmark.py', *flags).stdout
    assert re.search(r'^\| 8, 8, 4, 1, 2 \|( [\d.]+ / [\d.]+ / [\d.]+ \|){3}$', out, re.M)
    rows = json.loads(path.read_text())
    assert [(row['kernel'], row['stride'], row['batch_size'], row['dtype']) for row in rows] == [
        (3, 1, 2, 'float32'),
        (1, 2, 2, 'float32'),
    ]
    for row in rows:
        for part in ('output', 'input_gradient', 'kernel_gradient'):
            assert all(len(row[part][side]) == 2 and min(row[part][side]) > 0 for side in ('ours', 'XLA', 'PyTorch'))


@pytest.mark.slow
def test_devices_and_batch_sizes_are_rows_of_a_table_and_of_the_json(tmp_path):
    path = tmp_path / 'rows.json'
    scaling = '--devices=1,2,4', '--batch_sizes=16', '--rounds=2', '--seconds=0.05', f'--json={path}'
    out = run('benchmark.py', *TINY, '--startup', *scaling, timeout=600).stdout
    assert re.search(r'^resnet20 +train +float32 +4 +8 +[\d.,]+ +\d+ % +\d+ %$', out, re.M)
    rows = json.loads(path.read_text())
    assert [(row['facts']['devices'], row['batch_size']) for row in rows] == [(1, 8), (2, 8), (4, 8), (1, 16)]
    for row in rows:
        start = row['startup']
        assert 0 < start['warm']['starts'] < start['cold']['starts'] < start['cold']['done']
        assert start['warm']['compile'] < start['cold']['compile']
        program = row['compile']['train']['program']
        assert program['while'] and program['conditional'] == program['scatter'] == 0
    assert 'warm start: first training step after' in out


@pytest.mark.slow
def test_the_gpu_suite_on_a_cpu(tmp_path):
    path = tmp_path / 'gpu.json'
    flags = '--suite=gpu', '--minutes=8', '--rounds=2', '--seconds=0.05', f'--json={path}'
    run('benchmark.py', *TINY, *flags, '--speedruns=configs/quickstart.py,configs/none.py', timeout=540)
    parts = json.loads(path.read_text())['parts']
    assert parts['step']['epoch_seconds'] > 0 and parts['step']['compile']['train']['program']['conditional'] == 0
    assert parts['evaluation']['eval']['images_per_second']['n'] == 2 and parts['step_without_cuda_graph']['epoch_seconds'] > 0
    assert parts['peer']['train']['ratio']['n'] == 2 and 'eval' not in parts['peer']
    assert parts['quickstart']['accuracy']['mean'] > 0.98 and parts['quickstart']['accuracy']['n'] >= 2
    assert parts['none']['skipped'].startswith("no config file 'configs/none.py'; expected one of configs/alexnet.py")
    assert parts['startup']['warm']['starts'] < parts['startup']['cold']['starts']


@pytest.mark.slow
def test_the_second_start_of_resnet18_takes_less_than_half_of_the_first():
    """About 4 s on two idle cores."""
    values = resnet18.get_config()
    values.dataset = 'synthetic_cifar10'
    start = measure_startup(TrainConfig.from_mapping(values).to_dict(), {'JAX_NUM_CPU_DEVICES': '1'})
    assert start['warm']['starts'] < start['cold']['starts'] / 2, start


@pytest.mark.slow
def test_the_cpu_suite(tmp_path):
    path = tmp_path / 'cpu.json'
    flags = '--suite=cpu', '--networks=d2l_resnet18', '--batch_sizes=4', '--rounds=1', '--seconds=0.05', f'--json={path}'
    assert 'd2l_resnet18, float32: 1 of ' in run('benchmark.py', *flags, timeout=600).stdout
    rows = json.loads(path.read_text())
    assert all(row[step]['ratio']['median'] > 0 for row in rows for step in ('train', 'eval'))
    again = run('benchmark.py', *flags).stdout
    assert 'already; delete it to measure them again' in again and 'd2l_resnet18' in again


@pytest.mark.slow
def test_several_seeds_in_one_program_and_one_after_another(tmp_path):
    path = tmp_path / 'seeds.json'
    out = run('benchmark.py', *TINY, '--seeds=2', '--rounds=2', '--seconds=0.2', f'--json={path}').stdout
    row = json.loads(path.read_text())
    assert row['seeds'] == 2 and row['batch_size'] == 8
    for form, label in (('together', 'in one program'), ('in_turn', 'one after another')):
        assert row[form]['n'] == 2 and row[form]['low'] > 0
        assert f'| {label} | {row[form]["median"]:,.0f} |' in out
