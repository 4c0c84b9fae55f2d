"""Huge pages for steps on a CPU: they write gigabytes to newly allocated memory, by default in pages of 4 KiB.

glibc's malloc requests huge pages only if an environment variable is set when the process starts, so the process restarts
itself. Two cores of an AMD EPYC (Zen 4, a virtual machine), batch 128, one step at a time: ResNet-18 1.32 s instead of 1.61 s,
ResNet-50 5.97 s instead of 8.1 s (median of 4).
"""

import contextlib
import os
import sys
from pathlib import Path

TUNABLE = 'glibc.malloc.hugetlb=1'  # madvise(MADV_HUGEPAGE); glibc 2.35 and later, ignored by other versions


def environment() -> dict[str, str]:
    """Returns {'GLIBC_TUNABLES': ...} for a process that should use huge pages, or {} if it would change nothing."""
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    try:
        on_request = '[madvise]' in Path('/sys/kernel/mm/transparent_hugepage/enabled').read_text()
    except OSError:
        on_request = False
    if not on_request or 'glibc.malloc.hugetlb' in tunables:
        return {}
    return {'GLIBC_TUNABLES': f'{tunables}:{TUNABLE}' if tunables else TUNABLE}


def use() -> None:
    """Restarts this process, with the same process id, if that gives it huge pages; call it before anything else."""
    if extra := environment():
        with contextlib.suppress(OSError):  # the process continues with small pages
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **extra})
