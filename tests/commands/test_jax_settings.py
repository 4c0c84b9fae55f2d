"""Environment variables of JAX and XLA, as a shell may have them for other programs: followed, or one line."""

import json
import subprocess
import sys

import pytest
from commands_support import TINY, error_line, run
from installed import quick_to_compile
from sampling import sample
from test_train_command import assert_same_state

from resnet_jax.errors import ConfigError
from resnet_jax.runtime.jax_settings import use_our_settings, why_jax_does_not_start

NOT_FOLLOWED = {
    'JAX_ENABLE_X64': '1',
    'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
    'JAX_DISABLE_JIT': 'true',
    'JAX_TRANSFER_GUARD': 'disallow',
    'JAX_TRANSFER_GUARD_DEVICE_TO_HOST': 'disallow',
    'JAX_DEBUG_NANS': '1',
    'JAX_DEBUG_INFS': 'nonsense',
    'JAX_DEFAULT_PRNG_IMPL': 'rbg',
    'JAX_THREEFRY_PARTITIONABLE': '0',
    'JAX_RANDOM_SEED_OFFSET': '7',
    'JAX_NO_TRACING': '1',
    'JAX_NO_EXECUTION': '1',
    'JAX_ERROR_CHECKING_BEHAVIOR_NAN': 'raise',
    'JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE': 'raise',
    'JAX_ERROR_CHECKING_BEHAVIOR_OOB': 'raise',
    'JAX_COMPILATION_CACHE_CHECK_CONTENTS': '1',
    'NPROC': '100000',
}
IMPOSSIBLE = {
    'JAX_PLATFORMS=cuda': 'no such device',
    'JAX_PLATFORMS=cpuu': "'cpuu' is not in the list of known backends",
    'JAX_PLATFORMS=cpu,tpu': "Unable to initialize backend 'tpu'",
    'JAX_PLATFORM_NAME=gpu': "Unknown backend: 'gpu'",
    'JAX_DEFAULT_DEVICE=gpu': "Unknown backend: 'gpu'",
    'JAX_NUM_CPU_DEVICES=100000': 'asks for 100000 CPU devices; expected at most',
    'XLA_FLAGS=--xla_force_host_platform_device_count=100000': 'asks for 100000 CPU devices; expected at most',
    'JAX_NUM_CPU_DEVICES=many': 'Invalid value "many"',
    'JAX_NUMPY_RANK_PROMOTION=perhaps': 'Invalid value "perhaps"',
    'JAX_CHECK_TRACER_LEAKS=maybe': "invalid truth value 'maybe'",
    'XLA_FLAGS=--xla_cpu_multi_thread_eigen=banana': "Couldn't interpret value banana for flag xla_cpu_multi_thread_eigen",
    'XLA_FLAGS=--xla_no_such_flag=1': 'Unknown flag in XLA_FLAGS: --xla_no_such_flag=1',
}


def test_what_a_run_cannot_follow_is_set_aside(monkeypatch, capsys):
    for name, value in NOT_FOLLOWED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('XLA_FLAGS', '')
    use_our_settings()
    warned = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert sorted(warned) == sorted(f'{name}={value}' for name, value in NOT_FOLLOWED.items())
    use_our_settings()  # also in a process that this one has started
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('name', 'value'), [('JAX_NUM_CPU_DEVICES', '100000'), ('XLA_FLAGS', '--xla_force_host_platform_device_count=100000')]
)
def test_devices_without_end_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f'{name} asks for 100000 CPU devices'):
        use_our_settings()


@pytest.mark.parametrize('text', ["Unable to initialize backend 'tpu': no file", "Unknown backend: 'gpu' requested"])
def test_jax_says_only_once_that_it_did_not_start(text):
    """It goes on with the other platforms."""
    assert text in str(why_jax_does_not_start(RuntimeError(text)))
    assert why_jax_does_not_start(RuntimeError('a bug')) is None


@pytest.mark.slow
def test_what_a_run_cannot_follow_changes_nothing_and_is_named(tiny_run, tmp_path):
    workdir = tmp_path / 'run'
    done = run('train.py', *TINY, f'--workdir={workdir}', **NOT_FOLLOWED)
    warned = [line for line in done.stderr.splitlines() if line.startswith('warning: ')]
    assert sorted(line.split()[1] for line in warned) == sorted(f'{name}={value}' for name, value in NOT_FOLLOWED.items())
    assert_same_state(workdir, tiny_run[0])
    assert (workdir / 'metrics.jsonl').read_bytes() == (tiny_run[0] / 'metrics.jsonl').read_bytes()


@pytest.mark.slow
def test_the_other_commands_answer_as_they_do(tiny_run):
    arguments = 'evaluate.py', f'--workdir={tiny_run[0]}', '--json'
    there = json.loads(run(*arguments, **NOT_FOLLOWED).stdout)
    assert there == json.loads(run(*arguments).stdout)


@pytest.mark.parametrize('setting', sample(IMPOSSIBLE, 3))
def test_what_jax_cannot_start_with_is_one_line(setting, tmp_path):
    name, value = setting.split('=', 1)
    done = run('train.py', *TINY, f'--workdir={tmp_path / "run"}', code=2, **{name: value})
    assert IMPOSSIBLE[setting] in error_line(done) and name in error_line(done)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('verb', sample(['evaluate', 'predict', 'benchmark'], 3))
def test_also_for_the_other_commands(verb, tiny_run):
    flags = ['--config=quickstart'] if verb == 'benchmark' else [f'--workdir={tiny_run[0]}']
    files = [tiny_run[0] / 'plots' / 'training.png'] if verb == 'predict' else []
    assert 'JAX_PLATFORMS=cuda' in error_line(run(f'{verb}.py', *flags, *files, code=2, JAX_PLATFORMS='cuda'))


CALLER = """
import sys
import jax, numpy as np
jax.config.update('jax_enable_x64', True)
jax.config.update('jax_debug_nans', True)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_default_prng_impl', 'rbg')
jax.config.update('jax_threefry_partitionable', False)
from resnet_jax import load, train_and_evaluate
from resnet_jax.cli.run_config import get_config

done = train_and_evaluate(get_config(sys.argv[1]), sys.argv[2])
images = np.zeros((2, *done.classifier.image_shape), np.uint8)
assert done.classifier.logits(images).dtype == load(sys.argv[1]).logits(images).dtype == np.float32
assert jax.numpy.ones(1).dtype == 'float64' and jax.config.jax_debug_nans
"""


@pytest.mark.slow
def test_a_caller_that_computes_in_double_precision_gets_the_same_run(tiny_run, tmp_path):
    command = [sys.executable, '-c', CALLER, tiny_run[0], tmp_path / 'run']
    environment = {**quick_to_compile(), 'JAX_NUM_CPU_DEVICES': '1', 'XLA_FLAGS': ''}  # as `tiny_run` was made
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == (tiny_run[0] / 'metrics.jsonl').read_bytes()
