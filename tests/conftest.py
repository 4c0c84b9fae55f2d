"""Test settings; set before jax is imported anywhere."""

import os
import signal

# pmap's mistakes (a value that was not averaged) show only on two devices or more. Four, so that 1, 2 and 4 can be compared.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'agg')

# A job in the background of a script starts with Ctrl-C ignored, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
