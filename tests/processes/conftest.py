import pytest
from pair import SHORT, Pair

QUICK = 'JAX_DISABLE_MOST_OPTIMIZATIONS', '1'  # halves the time of compilation


@pytest.fixture(scope='module', autouse=True)
def quick_commands():
    # Not for the whole session: see tests/faults/conftest.py.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*QUICK)
        yield


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory):
    """The run folder of two processes that nothing happened to. Do not change it."""
    workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*QUICK)
        pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    return workdir
