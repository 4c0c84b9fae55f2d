import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from compilers import has_compiler
from packaging.version import Version
from sampling import sample

from resnet_jax.ops.kernels import build

ROOT = Path(__file__).resolve().parents[2]

# Prints the lanes, whether XLA's convolution agrees, and the bits of a gradient.
CODE = """
import hashlib, jax, numpy as np
from resnet_jax.ops import kernels
from resnet_jax.ops.convolution import conv

rng = np.random.default_rng(0)
x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((8, 6, 6, 16), (3, 3, 16, 32)))

def gradient(x, kernel):
    return jax.grad(lambda kernel: (conv(x, kernel, (1, 1), ((1, 1), (1, 1))) ** 2).sum())(kernel)

found = np.asarray(jax.jit(gradient)(x, kernel))
with kernels.enabled(True):
    lanes = kernels.lanes()
kernels.lanes = lambda: 0
jax.clear_caches()
close = np.allclose(found, jax.jit(gradient)(x, kernel), rtol=1e-4, atol=1e-2)
print(lanes, close, hashlib.sha256(found.tobytes()).hexdigest())
"""


def run(cache, code=CODE, **env):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'RESNET_JAX_CACHE_DIR': str(cache), 'JAX_NUM_CPU_DEVICES': '1', **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    if not has_compiler():
        pytest.skip('needs a C compiler')
    cache = tmp_path_factory.mktemp('cache')
    return cache, run(cache).stdout


def test_the_kernels_build_where_there_is_a_compiler(built):
    # Of whatever jaxlib is installed: XLA's C interface has changed before, and training fell back to slow forms.
    lanes, close, _ = built[1].split()
    assert int(lanes) in (4, 8, 16) and close == 'True'


def test_a_damaged_library_is_built_again_and_the_number_of_threads_changes_no_bit(built):
    cache, printed = built
    (library,) = cache.glob('kernels/*.so')
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    assert printed.split()[0] != '0' and printed.split()[1] == 'True'
    assert {run(cache, NPROC=number).stdout for number in ('1', '12')} == {printed}  # 12: more than parts of a sum
    assert library.read_bytes() != bytes(content)
    assert {path.suffix for path in (cache / 'kernels').iterdir()} == {'.so', '.sha256'}


def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(built, tmp_path):
    (tmp_path / 'file').write_text('')
    assert run(tmp_path / 'file').stdout == built[1]


@pytest.mark.parametrize('compiler', sample(['no-such-compiler', 'false'], 2))
def test_without_a_compiler_xlas_forms_are_used_and_a_line_says_so(tmp_path, compiler):
    done = run(tmp_path, CC=compiler)
    assert done.stdout.startswith('0 True')
    assert done.stderr.count('Convolutions on the CPU run in slower forms') == 1 and 'Traceback' not in done.stderr


FROM_INPUT = 'cc -shared -x c - -o "$out"'
# What a compiler does, as a shell script; the last argument is the library to write.
ODD = {
    'prints no UTF-8': r"printf '\377\376 wrong\n' >&2; exit 1",
    'writes nothing': 'exit 0',
    'writes no library': 'echo garbage > "$out"',
    'leaves the functions out': 'cc -shared -x c /dev/null -o "$out"',
    'writes one that crashes': f'echo "__attribute__((constructor)) void f(void) {{ __builtin_trap(); }}" | {FROM_INPUT}',
    'writes one for other vectors': f'echo "int resnet_jax_lanes(void) {{ return 0; }}" | {FROM_INPUT}',
    'crashes': 'kill -SEGV $$',
    'waits for its input': 'cat; exit 1',
    'hangs, and so does what it starts': 'sleep 1000 & sleep 1000',
}
SHORT = 'from resnet_jax.ops.kernels import build\nbuild._SECONDS = 1.0\n'


@pytest.mark.parametrize('oddity', sample(ODD, 4))
def test_a_compiler_that_does_anything_else_leaves_the_other_forms(oddity, tmp_path):
    if 'cc ' in ODD[oddity] and not has_compiler():
        pytest.skip('needs a C compiler')
    (tmp_path / 'compiler').write_text(f'#!/bin/sh\nfor out; do :; done\n{ODD[oddity]}\n')
    (tmp_path / 'compiler').chmod(0o755)
    done = run(tmp_path / 'cache', (SHORT if 'hangs' in oddity else '') + CODE, CC=str(tmp_path / 'compiler'))
    assert done.stdout.startswith('0 True'), done.stderr
    assert done.stderr.count('Convolutions on the CPU run in slower forms') == 1 and 'Traceback' not in done.stderr
    assert not [*(tmp_path / 'cache' / 'kernels').iterdir()]  # nothing is kept
    reason = next(line for line in done.stderr.splitlines() if 'slower forms' in line).rpartition(': ')[2]
    assert reason.strip(), done.stderr


def test_a_kept_library_that_others_can_write_is_built_again(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / 'cache')
    (library,) = cache.glob('kernels/*.so')
    library.chmod(0o666)
    done = run(cache)
    assert done.stdout == built[1] and library.stat().st_mode & 0o77 == 0
    assert f'{library} is not used, for others can write it (chmod go-w helps); it is compiled anew' in done.stderr


def test_a_kept_library_that_cannot_be_used_is_no_obstacle(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / 'cache')
    (library,) = cache.glob('kernels/*.so')
    library.write_bytes(b'garbage')
    library.with_suffix('.sha256').write_text(hashlib.sha256(b'garbage').hexdigest())
    assert run(cache).stdout == built[1]


@pytest.mark.slow
def test_they_compile_with_the_headers_of_every_jaxlib_that_may_be_installed(tmp_path):
    """XLA's C interface changes with its releases. Downloads their wheels."""
    if not has_compiler():
        pytest.skip('needs a C compiler')
    lowest = re.search(r'"jax>=([\d.]+)"', (ROOT / 'pyproject.toml').read_text())[1]
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    target = ['--python-version=3.13', '--only-binary=:all:']  # Python 3.11 gets no jaxlib after 0.10
    listed = subprocess.run([*pip, 'index', 'versions', 'jaxlib', *target], capture_output=True, text=True, check=True).stdout
    versions = re.search(r'Available versions: (.*)', listed)[1].split(', ')
    versions = [version for version in versions if Version(version) >= Version(lowest)]
    assert lowest in versions and len(versions) >= 6
    for version in versions:
        subprocess.run(
            [*pip, 'download', '--quiet', '--no-deps', *target, f'--dest={tmp_path}', f'jaxlib=={version}'], check=True
        )
        (wheel,) = tmp_path.glob('*.whl')
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / version, [name for name in archive.namelist() if '/xla/ffi/api/' in name])
        wheel.unlink()
        for source in ('direct.c', 'winograd.c'):
            include = tmp_path / version / 'jaxlib' / 'include'
            command = [
                *build._compiler(),
                '-fsyntax-only',
                '-Wall',
                '-Werror',
                f'-I{include}',
                Path(build.__file__).parent / source,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f'{source} with jaxlib {version}: {done.stderr}'
