import fcntl
import os
import pickle
import shutil

import pytest
from commands_support import TINY, run


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
    """The run folder of a tiny finished run and what its command printed. Do not change it: copy it.

    The first of pytest's processes that needs it trains it; each has a copy.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own
    trained, kept, workdir = shared / 'trained' / 'tiny', shared / 'trained.pickle', own / 'runs' / 'tiny'
    with (shared / 'trained.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(run('train.py', *TINY, f'--workdir={trained}', new_process=True)))
    done = pickle.loads(kept.read_bytes())
    done.stdout = done.stdout.replace(str(trained), str(workdir))
    return shutil.copytree(trained, workdir), done
