import contextlib
import shutil
import signal
import subprocess

import pytest
from faults_support import TINY, command, outcome, steps, train


@pytest.fixture(scope='session')
def compiled_quickly(tmp_path_factory):
    """A context in which commands share JAX's compilation cache and optimize little, so that a process takes seconds."""
    programs = tmp_path_factory.mktemp('programs')

    @contextlib.contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('JAX_COMPILATION_CACHE_DIR', str(programs))
            patch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
            patch.setenv('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
            patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # halves the time of compilation
            yield

    return context


@pytest.fixture(scope='module', autouse=True)
def _compiled_quickly(compiled_quickly):
    # Not for the whole session: other tests compare runs to the bit, which differ in a last digit if optimized otherwise.
    with compiled_quickly():
        yield


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, compiled_quickly):
    """The folder of a tiny run that nothing disturbed. Do not change it: copy it."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    with compiled_quickly():
        train(workdir)
    return workdir


@pytest.fixture(scope='session')
def expected(undisturbed):
    """What it came to."""
    return outcome(undisturbed)


@pytest.fixture(scope='session')
def killed(tmp_path_factory, compiled_quickly):
    workdir = tmp_path_factory.mktemp('killed') / 'run'
    with compiled_quickly():
        options = command('train.py', *TINY, f'--workdir={workdir}', failpoint='saved:3:kill')
        assert subprocess.run(**options, capture_output=True, timeout=600).returncode == -signal.SIGKILL
    assert steps(workdir) == [10, 20, 30]
    return workdir


@pytest.fixture
def interrupted(killed, tmp_path):
    """A run that was killed after the third of four epochs: checkpoints 10, 20 and 30."""
    return shutil.copytree(killed, tmp_path / 'run')
