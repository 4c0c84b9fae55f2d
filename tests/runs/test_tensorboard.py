import subprocess
import sys

CODE = """
import sys
from pathlib import Path
from resnet_jax.runs.tensorboard import EventFiles

file = EventFiles(Path(sys.argv[1]), 0, {'rate': 0.1}, 'test')
file.write(1, 'train', {'loss': 0.5})
file.close()
print('torch' in sys.modules)
import torch  # may be imported after it
"""


def test_torch_is_not_imported_for_it(tmp_path):
    done = subprocess.run([sys.executable, '-c', CODE, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, 'False\n'), done.stderr
    (path,) = (tmp_path / 'train').iterdir()
    assert b'loss' in path.read_bytes()
