"""Test settings; set before jax is imported anywhere."""

import os

# pmap's mistakes (a value that was not averaged) show only on two devices or more. Four, so that 1, 2 and 4 can be compared.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'agg')
