import pytest
from benchmark_support import config

from resnet_jax.benchmark.measure import Effort
from resnet_jax.benchmark.own_loops import measure_own_loops, table


@pytest.mark.slow
def test_both_loops_are_measured():
    row = measure_own_loops('resnet8', config(batch_size=8), Effort(rounds=2, seconds=0.01))
    assert row['linen']['low'] > 0 and row['nnx']['low'] > 0
    assert row['ratio']['n'] == 2 and row['batch_size'] == 8
    row |= {'nnx': {'median': 980.0, 'low': 970.0, 'high': 990.0}, 'ratio': {'median': 0.98, 'low': 0.97, 'high': 0.99, 'n': 2}}
    assert table(row).splitlines()[-3:] == ['| NNX | 980 | 970-990 |', '', 'NNX / linen: 0.980 (0.970-0.990)']
