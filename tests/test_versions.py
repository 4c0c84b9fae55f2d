"""What a new version of JAX, Flax or Orbax may break, and whether pip can install what README says."""

import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import jax
import jax.extend
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / 'resnet_jax').rglob('*.py'))
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def test_one_private_name_of_jax_is_used_and_it_is_there():
    uses = {(path.name, line.strip()) for path in SOURCES for line in path.read_text().splitlines() if 'jax._src' in line}
    assert {line.partition('  #')[0] for _, line in uses} == {'from jax._src import distributed'}, (
        'expected public names: JAX moves its private ones without notice'
    )
    from jax._src import distributed

    assert hasattr(distributed.global_state, 'client'), (
        'runtime/watchdog.py reads the key-value store of jax.distributed here, and JAX has moved it: find the coordination '
        "service's client in the new version (its own checkpoint barriers use it too), and keep both places"
    )


def test_names_of_jax_that_are_public_but_have_moved_before():
    """A warning of a deprecation would be an error here; the primitives need the last four."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        names = [jax.core.Tracer, jax.core.ShapedArray, jax.extend.core.Primitive, jax.ffi.ffi_call]
        from jax.interpreters import ad, batching, mlir

        names += [ad.defbilinear, batching.primitive_batchers, mlir.register_lowering, mlir.lower_fun]
    assert all(name is not None for name in names)


@pytest.mark.slow
@pytest.mark.parametrize('extra', ['', *PROJECT['optional-dependencies']])
def test_pip_can_install_it(extra):
    """For this Python, as README's lines do; nothing is installed."""
    wanted = f'{ROOT}[{extra}]' if extra else str(ROOT)
    command = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--quiet', wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def test_documents_name_the_extras_that_there_are():
    text = '\n'.join(path.read_text() for path in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')))
    named = {name for names in re.findall(r"'?(?:\.|resnet_jax)\[([\w,]+)\]", text) for name in names.split(',')}
    assert named <= PROJECT['optional-dependencies'].keys() and {'cuda12', 'cuda13', 'export'} <= named
