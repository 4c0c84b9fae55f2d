"""The convolutions' own tests, with C compiled for narrower vectors and by another compiler."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
X86 = {'gcc -mno-avx512f': 8, 'gcc -mno-avx': 4, 'clang -mno-avx512f': 8}
CODE = 'import sys; from resnet_jax.ops.kernels import build; sys.exit(build.library().lanes)'


@pytest.mark.slow
@pytest.mark.parametrize('compiler', [*X86, 'clang'])
def test_convolutions(compiler, tmp_path):
    if not shutil.which(shlex.split(compiler)[0]):
        pytest.skip(f'needs {shlex.split(compiler)[0]}')
    if compiler in X86 and platform.machine() != 'x86_64':
        pytest.skip('needs an x86-64 CPU')
    env = {**os.environ, 'CC': compiler, 'RESNET_JAX_CACHE_DIR': str(tmp_path), 'JAX_NUM_CPU_DEVICES': '2'}
    lanes = subprocess.run([sys.executable, '-c', CODE], env=env, timeout=120).returncode
    assert lanes in (4, 8, 16)
    assert lanes <= X86.get(compiler, 16)
    names = 'c and (test_output_and_gradients or test_other_paddings or test_batches)'
    arguments = ['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', 'tests/ops/test_convolution.py', '-k', names]
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert ' passed' in done.stdout and ' skipped' not in done.stdout, done.stdout[-300:]
