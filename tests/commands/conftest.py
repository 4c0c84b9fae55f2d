import pytest
from commands_support import TINY, run


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
    """The run folder of a tiny finished run and what its command printed. Do not change it: copy it."""
    workdir = tmp_path_factory.mktemp('runs') / 'tiny'
    return workdir, run('train.py', *TINY, f'--workdir={workdir}', new_process=True)
