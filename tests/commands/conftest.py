import shutil

import pytest
from commands_support import TINY, run
from made_once import made_once


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
    """The run folder of a tiny finished run and what its command printed. Do not change it: copy it."""

    def train(folder):
        return run('train.py', *TINY, f'--workdir={folder}', new_process=True)

    trained, done = made_once(tmp_path_factory, 'tiny', train)
    # A copy, because a command that looks into a folder keeps others from training there.
    workdir = tmp_path_factory.getbasetemp() / 'runs' / 'tiny'
    done.stdout = done.stdout.replace(str(trained), str(workdir))
    return shutil.copytree(trained, workdir), done
