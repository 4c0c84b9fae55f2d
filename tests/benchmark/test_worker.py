import pytest
from benchmark_support import config

from configs import resnet20
from resnet_jax.benchmark import worker
from resnet_jax.errors import UserError


def test_a_worker_answers_hands_on_errors_and_ends():
    with worker.Worker('torch', {}, config=config(resnet20), device='cpu', compiled=False) as other:
        assert other('matrix_products', size=32, seconds=0.05)['float32'] > 0
        process = other._process
    assert process.poll() is not None
    with pytest.raises(UserError, match='no PyTorch network to compare'):
        worker.Worker('torch', {}, config=config(resnet20, model='lenet5', model_kwargs={}), device='cpu', compiled=False)
