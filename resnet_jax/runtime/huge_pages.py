"""Memory in huge pages: a step on a CPU writes gigabytes to memory that it has just been given, 4 KiB at a time otherwise.

glibc's malloc asks for them only if an environment variable says so when the process starts, hence the process starts itself
again. Two cores of an AMD EPYC (Zen 4, a virtual machine), batch 128, one step at a time: ResNet-18 1.32 s instead of 1.61 s,
ResNet-50 5.97 s instead of 8.1 s (median of 4).
"""

import os
import sys
from pathlib import Path

TUNABLE = 'glibc.malloc.hugetlb=1'  # madvise(MADV_HUGEPAGE); glibc 2.35 and later, ignored by others


def environment() -> dict[str, str]:
    """Returns {'GLIBC_TUNABLES': ...} for a process that is to use huge pages, or {} where that says nothing new."""
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    try:
        on_request = '[madvise]' in Path('/sys/kernel/mm/transparent_hugepage/enabled').read_text()
    except OSError:
        on_request = False
    if not on_request or 'glibc.malloc.hugetlb' in tunables:
        return {}
    return {'GLIBC_TUNABLES': f'{tunables}:{TUNABLE}' if tunables else TUNABLE}


def use() -> None:
    """Starts this process again, under the same process id, if that gives it huge pages; call it before anything else."""
    if extra := environment():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **extra})
