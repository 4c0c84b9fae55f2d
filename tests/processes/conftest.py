import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'commands'))  # for commands_support

from pair import SHORT, Pair


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory):
    """The run folder of two processes that nothing happened to. Do not change it."""
    workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
    pair = Pair(workdir, *SHORT)
    assert pair.wait() == [0, 0], pair.errors
    return workdir
