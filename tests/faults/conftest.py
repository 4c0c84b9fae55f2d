import shutil

import pytest
from faults_support import outcome, train


@pytest.fixture(scope='session', autouse=True)
def compile_once(tmp_path_factory):
    """The commands of these tests share JAX's compilation cache, so that a process takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path_factory.mktemp('programs')))
        patch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
        patch.setenv('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
        yield


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, compile_once):
    """The folder of a tiny run that nothing disturbed. Do not change it: copy it."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    train(workdir)
    return workdir


@pytest.fixture(scope='session')
def expected(undisturbed):
    """What it came to."""
    return outcome(undisturbed)


@pytest.fixture
def interrupted(undisturbed, tmp_path):
    """A copy of it as it was after the third of four epochs: checkpoints 20 and 30, or those of its best epoch, no result."""
    workdir = shutil.copytree(undisturbed, tmp_path / 'run')
    (workdir / 'result.json').unlink()
    return workdir
