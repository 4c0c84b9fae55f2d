import os
import subprocess
import sys

import jax
import numpy as np
import pytest


@pytest.fixture(scope='module')
def quick_compilation():
    """Compiles in half the time, to slower programs: for the many small programs of a test module."""
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='module')
def on_devices(tmp_path_factory, quick_compilation):
    """{1, 2, 4: what on_devices.results() gives on so many devices}; 1 and 2 in a process each, 4 in this one."""
    import on_devices

    folder, processes = tmp_path_factory.mktemp('devices'), {}
    for count in (1, 2):
        environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': str(count), 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
        command = [sys.executable, on_devices.__file__, folder / f'{count}.npz']
        processes[count] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    results = {4: on_devices.results()}
    for count, process in processes.items():
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        results[count] = dict(np.load(folder / f'{count}.npz'))
    return results
