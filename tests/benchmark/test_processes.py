"""The processes that the benchmark starts, against programs that stand in for the train and benchmark commands."""

import json
import sys

import pytest

from resnet_jax.benchmark import command, gpu_suite
from resnet_jax.benchmark.measure import Effort
from resnet_jax.errors import UserError

TRAIN = """
import os, sys, time
start = time.monotonic()
assert sys.argv[1].startswith('--config=') and sys.argv[2].startswith('--workdir=')
sys.path.insert(0, os.path.dirname(sys.argv[1][9:]))
config = __import__('benchmark').get_config()
print('net, 3 parameters', config.log_every, flush=True)
if config.seed == {fails}:
    sys.exit('error: no data; expected some')
time.sleep({slow} if os.path.exists(os.environ.get('RESNET_JAX_CACHE_DIR', '') + '/warm') else 2 * {slow})
if 'RESNET_JAX_CACHE_DIR' in os.environ:
    os.makedirs(os.environ['RESNET_JAX_CACHE_DIR'] + '/warm', exist_ok=True)
print('Iteration 1 starts 0.1 s after the process; compiling it, or reading it compiled, took 0.7 s.', flush=True)
time.sleep({step})
print('Iteration 1 of 3, loss 2.3', flush=True)
print('Iteration 3 of 3, loss 2.1', flush=True)
time.sleep(0.2)
print('Epoch 1: test loss 1, accuracy 94.12 %', flush=True)
print('Test accuracy 94.12 % (9412 of 10000), loss 1.0, epoch 1 (the last)')
"""

BENCHMARK = """
import json, sys, time
flags = dict(flag.lstrip('-').split('=', 1) for flag in sys.argv[1:])
if 'peer' in flags:
    {peer}
row = {{'flags': flags, 'train': {{'images_per_second': {{'median': 100_000}}}}}}
open(flags['json'], 'w').write(json.dumps([row]))
"""

CONFIG = {'dataset': 'digits', 'seed': 0, 'num_epochs': 2, 'log_every': 5, 'dtype': 'bfloat16'}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts the stand-ins in place."""

    def put(*, fails=-1, slow=0.0, step=0.3, peer='pass'):
        monkeypatch.delenv('RESNET_JAX_CACHE_DIR', raising=False)
        (tmp_path / 'train.py').write_text(TRAIN.format(fails=fails, slow=slow, step=step))
        (tmp_path / 'benchmark.py').write_text(BENCHMARK.format(peer=peer))
        start = f'import runpy, sys; verb = sys.argv.pop(1); runpy.run_path(f"{tmp_path}/{{verb}}.py", run_name="__main__")'
        for module in (command, gpu_suite):
            monkeypatch.setattr(module, 'COMMAND', [sys.executable, '-c', start])

    return put


def test_a_run_is_timed_from_its_first_step_to_its_last(programs, tmp_path):
    programs()
    run = command.time_to_accuracy(CONFIG, tmp_path / 'run', 20)
    assert run['accuracy'] == 0.9412
    assert 0 < run['training_seconds'] < run['process_seconds'] - 0.2  # it sleeps for so long after the last step


def test_the_first_start_has_an_empty_cache_and_the_second_has_what_it_left(programs, monkeypatch):
    programs(slow=0.5)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/mine')
    start = command.measure_startup(CONFIG)
    assert 1 <= start['cold']['starts'] < start['cold']['done'] - 0.25
    assert 0.5 <= start['warm']['starts'] < start['cold']['starts'] and start['warm']['compile'] == 0.7


def test_what_a_failing_run_said_is_told(programs, tmp_path):
    programs(fails=0)
    with pytest.raises(UserError, match='exit code 1: no data; expected some'):
        command.time_to_accuracy(CONFIG, tmp_path / 'run', 20)


def test_a_run_that_takes_too_long_is_ended(programs, tmp_path):
    programs(step=60)
    with pytest.raises(UserError, match='not done after 1 s; its last line: Iteration 1 starts'):
        command.time_to_accuracy(CONFIG, tmp_path / 'run', 1)  # else its last line would be a later one


def suite(tmp_path, speedruns, seconds=60.0):
    path, said = tmp_path / 'gpu.json', []
    result = gpu_suite.gpu_suite(str(path), CONFIG, speedruns, seconds=seconds, effort=Effort(2, 0.1), progress=said.append)
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    return result['parts'], said


def test_a_gpu_is_measured_part_by_part(programs, tmp_path):
    programs(fails=2)
    parts, said = suite(tmp_path, {'fast': CONFIG, 'absent': 'there is no config absent'})
    assert list(parts) == ['step', 'evaluation', 'step_without_cuda_graph', 'peer', 'startup', 'fast', 'absent']
    given = {'config', 'json', 'rounds', 'seconds', 'steps'}
    assert parts['step']['epoch_seconds'] == 0.5 and parts['step']['flags'].keys() == given
    assert [parts[name]['flags']['steps'] for name in ('step', 'evaluation')] == ['train', 'eval']
    assert parts['peer']['flags'] | {'peer': 'torch', 'variants': 'bfloat16', 'steps': 'train'} == parts['peer']['flags']
    fast = parts['fast']
    assert [run['seed'] for run in fast['runs']] == [0, 1]  # the third fails: what there is stays
    assert fast['ended'] == 'seed 2: the train command ended with exit code 1: no data; expected some'
    assert fast['accuracy']['mean'] == 0.9412 and fast['accuracy']['n'] == 2
    assert fast['training_seconds']['low'] <= fast['training_seconds']['mean'] <= fast['training_seconds']['high']
    assert parts['absent']['skipped'] == 'there is no config absent'
    assert parts['startup'].keys() == {'seconds', 'cold', 'warm'}
    assert any(line.startswith('fast, seed 1: accuracy 94.12 %') for line in said)


@pytest.mark.parametrize(
    ('peer', 'told'),
    [
        ("sys.exit('error: PyTorch is not installed; expected it')", 'PyTorch is not installed; expected it'),
        ("raise RuntimeError('no compiler')", 'RuntimeError: no compiler'),
        ('time.sleep(60)', 'not done after'),
    ],
)
def test_a_part_that_fails_is_told_and_the_others_go_on(programs, tmp_path, monkeypatch, peer, told):
    programs(fails=0, peer=peer)
    monkeypatch.setattr(gpu_suite, '_SHORTEST', 0.5)
    parts, _ = suite(tmp_path, {'fast': CONFIG}, seconds=8)
    assert told in parts['peer']['error'] and 'error' not in parts['step']
    assert 'no data; expected some' in parts['fast']['skipped']


def test_without_time_nothing_is_begun(programs, tmp_path):
    programs()
    parts, _ = suite(tmp_path, {'fast': CONFIG}, seconds=4)
    assert all('no time left' in part['skipped'] for part in parts.values())
