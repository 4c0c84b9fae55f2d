"""Test settings; set before jax is imported anywhere."""

import atexit
import functools
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata

import pytest

# pmap's mistakes (a value that was not averaged) show only on two devices or more. Four, so that 1, 2 and 4 can be compared.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'agg')
# Broadcasting arrays of different ranks by accident is an error, in the commands that tests start too.
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'

# XLA's newer emitters of fusions take most of the time in which a tiny network compiles; jaxlib 0.11 and later have no others.
# A program in one part instead of 32, each optimised on a thread of its own, is a fifth of the rest when all cores are busy.
if metadata.version('jaxlib').startswith('0.10.'):
    os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1')

# Tracing makes many objects, few of them garbage: by default the collector walks through them all the time.
gc.set_threshold(20_000, 20, 100)

# The commands that tests start compile the same programs again and again: they share what is compiled, and so do pytest's
# own processes, which inherit the folder. Every session starts with an empty one.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='resnet_jax_tests_')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

# A job in the background of a script starts with Ctrl-C ignored, one under nohup with SIGHUP, and so would every process that a
# test starts.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _package_logger():
    """A run in an earlier test leaves its messages on the console and away from pytest's caplog."""
    package = logging.getLogger('resnet_jax')
    package.handlers.clear()
    package.setLevel(logging.NOTSET)
    package.propagate = True


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
    """Compiled programs would fill gigabytes, which Python's garbage collector would walk through again and again."""
    yield
    if 'jax' in sys.modules:
        import jax

        jax.clear_caches()


@pytest.fixture(scope='module')
def quick_compilation():
    """Compiles in half the time, to slower programs: for the many small programs of a test module."""
    import jax

    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='module')
def on_devices(tmp_path_factory, quick_compilation):
    """Returns what on_devices.results() gives on so many devices: 4 in this process, others in one of their own."""
    import numpy as np
    import on_devices

    @functools.cache
    def results(count):
        if count == 4:
            return on_devices.results()
        file = tmp_path_factory.mktemp('devices') / 'results.npz'
        environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': str(count), 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
        command = [sys.executable, on_devices.__file__, file]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return dict(np.load(file))

    return results
