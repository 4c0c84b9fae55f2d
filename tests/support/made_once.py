"""What takes long to make and is the same for all of pytest's processes: the first that needs it makes it."""

import fcntl
import os
import pickle


def made_once(tmp_path_factory, name, make):
    """Returns a folder in which to read, and what `make(folder)` returned in whichever process called it."""
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent
    folder, kept = base / 'made_once' / name, base / f'{name}.pickle'
    with (base / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            folder.parent.mkdir(exist_ok=True)
            kept.write_bytes(pickle.dumps(make(folder)))
    return folder, pickle.loads(kept.read_bytes())
