import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.runtime import huge_pages

ENABLED = Path('/sys/kernel/mm/transparent_hugepage/enabled')


@pytest.mark.skipif(not ENABLED.is_file() or '[madvise]' not in ENABLED.read_text(), reason='huge pages are not on request')
def test_the_process_starts_again_once_with_the_same_arguments(monkeypatch):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.check=0')
    code = 'import os, sys; from resnet_jax.runtime import huge_pages; print(os.getpid(), flush=True); huge_pages.use(); '
    code += "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
    out = subprocess.run([sys.executable, '-c', code, 'a b', '--c'], capture_output=True, text=True, check=True).stdout.split(
        '\n'
    )
    assert out[0] == out[1]  # the same process id, twice
    assert out[2] == f'glibc.malloc.check=0:{huge_pages.TUNABLE} a b --c'


def test_what_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=0')
    assert huge_pages.environment() == {}


def test_a_process_that_cannot_start_again_goes_on(monkeypatch):
    monkeypatch.setattr(huge_pages, 'environment', lambda: {'A': 'b'})
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    huge_pages.use()
