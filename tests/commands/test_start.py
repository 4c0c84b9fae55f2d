"""How a command starts: what is compiled once is read from then on, gives the same bits, and can be damaged at will."""

import re
import subprocess
import time
import zlib

import pytest
from commands_support import TINY, command, run
from test_train_command import assert_same_state

# bin/train.py as it is, and at the end what JAX says of its cache.
COUNTED = """
import atexit, collections, jax, runpy, sys

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition('/')[2]]))
atexit.register(lambda: print(*(events[name] for name in ('compile_requests_use_cache', 'cache_hits', 'cache_misses'))))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
# Compiled in half the time, to slower programs.
WITHOUT = {
    'JAX_COMPILATION_CACHE_DIR': None,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
}


def environment(folder):
    return {**WITHOUT, 'RESNET_JAX_CACHE_DIR': str(folder)}


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    """The cache, the run folder and the output of a run that started with an empty cache."""
    cache, workdir = tmp_path_factory.mktemp('cache'), tmp_path_factory.mktemp('first') / 'run'
    started = time.monotonic()
    done = run('train.py', *TINY, f'--workdir={workdir}', **environment(cache))
    done.seconds = time.monotonic() - started
    return cache, workdir, done


def entries(cache):
    return {path.name: path.read_bytes() for path in (cache / 'compiled').glob('*-cache')}


def starting_line(done):
    (line,) = re.findall(r'^Iteration 1 starts ([\d.]+) s after the process; .* took ([\d.]+) s\.$', done.stdout, re.M)
    return tuple(map(float, line))


def assert_same_run(left, right):
    assert (left / 'metrics.jsonl').read_bytes() == (right / 'metrics.jsonl').read_bytes()
    assert_same_state(left, right)


@pytest.mark.slow
def test_the_log_says_when_the_first_step_starts(first):
    _, _, done = first
    after, compiling = starting_line(done)
    assert 0 < compiling < after < done.seconds


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_gives_the_same_bits(first, tmp_path):
    cache, workdir, _ = first
    before = entries(cache)
    arguments = command('train.py', *TINY, '--config.seed=0', f'--workdir={tmp_path}/run', **environment(cache))
    arguments['args'][1:1] = ['-c', COUNTED]
    done = subprocess.run(**arguments, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
    requests, hits, misses = map(int, done.stdout.splitlines()[-1].split())
    assert requests == hits > 4 and misses == 0  # the initial state, training, evaluation and prediction among them
    assert entries(cache) == before
    assert_same_run(tmp_path / 'run', workdir)


@pytest.mark.slow
def test_another_seed_is_the_same_program(first, tmp_path):
    cache, workdir, _ = first
    before = entries(cache)
    run('train.py', *TINY, '--config.seed=1', f'--workdir={tmp_path}/run', **environment(cache))
    assert entries(cache) == before
    assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() != (workdir / 'metrics.jsonl').read_bytes()


@pytest.mark.slow
def test_a_damaged_cache_is_repaired_and_gives_the_same_bits(first, tmp_path):
    cache, workdir, _ = first
    damages = [lambda data: b'garbage', lambda data: data[: len(data) // 2], lambda data: b'']
    for i, path in enumerate(sorted((cache / 'compiled').glob('*-cache'))):
        path.write_bytes(damages[i % 3](path.read_bytes()))
    done = run('train.py', *TINY, f'--workdir={tmp_path}/run', **environment(cache))
    assert done.stderr == ''
    assert_same_run(tmp_path / 'run', workdir)
    assert all(zlib.decompress(data) for data in entries(cache).values())
