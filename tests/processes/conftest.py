import pytest
from pair import SHORT, Pair


@pytest.fixture(scope='session', autouse=True)
def quick_commands():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # halves the time of compilation
        yield


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, quick_commands):
    """The run folder of two processes that nothing happened to. Do not change it."""
    workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    return workdir
