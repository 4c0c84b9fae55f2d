"""configs/quickstart.py, in which the process that STUCK names ('1 python') gets stuck at iteration 30: in Python or without
letting go of the interpreter's lock."""

import ctypes
import os
import sys
import time

from resnet_jax.configs import quickstart


def get_config():
    rank, how = os.environ['STUCK'].split()
    if f'--process_id={rank}' in sys.argv:
        from resnet_jax.runs.log import RunLog

        log = RunLog.step

        def stick(run, step, *arguments):
            log(run, step, *arguments)
            if step >= 30:
                if how == 'python':
                    time.sleep(1000)
                else:
                    ctypes.PyDLL(None).sleep(1000)

        RunLog.step = stick
    return quickstart.get_config()
