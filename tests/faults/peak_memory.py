"""Runs a command of bin/ and says at its end how much memory it took at most: peak_memory.py SCRIPT ARGUMENT...

getrusage would not do: a process begins with the peak of the one that started it.
"""

import atexit
import re
import runpy
import sys
from pathlib import Path


def tell():
    peak = re.search(r'^VmHWM:\s+(\d+)', Path('/proc/self/status').read_text(), re.M)[1]
    print(f'peak memory in kB: {peak}', file=sys.stderr)


atexit.register(tell)
sys.path[0] = str(Path(sys.argv[1]).parent)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
