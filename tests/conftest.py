"""Test settings; set before jax is imported anywhere."""

import atexit
import logging
import os
import shutil
import signal
import tempfile

import pytest

# pmap's mistakes (a value that was not averaged) show only on two devices or more. Four, so that 1, 2 and 4 can be compared.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'agg')

# The commands that tests start compile the same programs again and again: they share what is compiled, and so do pytest's
# own processes, which inherit the folder. Every session starts with an empty one.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='resnet_jax_tests_')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

# A job in the background of a script starts with Ctrl-C ignored, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _package_logger():
    """A run in an earlier test leaves its messages on the console and away from pytest's caplog."""
    package = logging.getLogger('resnet_jax')
    package.handlers.clear()
    package.setLevel(logging.NOTSET)
    package.propagate = True
