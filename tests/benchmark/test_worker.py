import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_support import config

from configs import resnet20
from resnet_jax.benchmark import worker
from resnet_jax.errors import UserError


def test_a_worker_answers_hands_on_errors_and_ends():
    with worker.Worker('torch', {}, config=config(resnet20), device='cpu') as other:
        assert other('matrix_products', size=32, seconds=0.05)['float32'] > 0
        process = other._process
    assert process.poll() is not None
    with pytest.raises(UserError, match='no PyTorch network to compare'):
        worker.Worker('torch', {}, config=config(resnet20, model='lenet5', model_kwargs={}), device='cpu')


LEAVES = """
import sys
from resnet_jax.benchmark.worker import Worker

worker = Worker('torch', {}, **CONFIG)
print(worker._process.pid, flush=True)
worker('matrix_products', size=64, seconds=100)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='asks Linux to end a process with its parent')
def test_a_worker_ends_with_its_parent_in_the_middle_of_a_request():
    kwargs = {'config': config(resnet20), 'device': 'cpu'}
    parent = subprocess.Popen([sys.executable, '-c', LEAVES.replace('CONFIG', repr(kwargs))], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(1)
    os.kill(pid, 0)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 120
    while Path(f'/proc/{pid}').exists() and Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z':
        assert time.monotonic() < deadline
        time.sleep(0.05)
