"""The versions and the hardware of a process."""

import hashlib
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax

import resnet_jax
from resnet_jax.errors import ConfigError

DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
_PACKAGES = ('resnet_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')


def environment(imports: Sequence[str] = ()) -> dict[str, object]:
    """Returns the versions and the hardware of this process, and the user's modules that it has imported."""
    device = jax.local_devices()[0]
    return {
        'python': platform.python_version(),
        'packages': {name: metadata.version(name) for name in _PACKAGES if _installed(name)},
        'platform': device.platform,
        'device': _cpu_name() if device.platform == 'cpu' else device.device_kind,
        'devices': jax.device_count(),
        'processes': jax.process_count(),
        'cpu_cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'system': f'{platform.system()} {platform.machine()}',
        **({'imports': list(imports)} if imports else {}),
    }


def source_hash() -> str:
    """Returns a short hash of the source files, which differs between builds of one version."""
    root, digest = Path(resnet_jax.__file__).parent, hashlib.sha256()
    # Not rglob: it depends on the Python version whether rglob follows links, and in a checkout configs is a link.
    files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    for path in sorted(path for path in files if path.suffix in ('.py', '.c', '.h')):
        digest.update(f'{path.relative_to(root).as_posix()} {path.stat().st_size}\n'.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_deterministic() -> None:
    """Checks that deterministic operations were set before XLA started.

    Raises:
      ConfigError: a GPU is used and deterministic operations were not set.
    """
    if jax.default_backend() == 'gpu' and DETERMINISTIC not in os.environ.get('XLA_FLAGS', ''):
        raise ConfigError(f'deterministic needs {DETERMINISTIC} in XLA_FLAGS before JAX starts')


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or 'cpu'
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'cpu')
