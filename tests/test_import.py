"""What importing the package costs, and what it must not do."""

import os
import pkgutil
import subprocess
import sys

from processor_time import children_seconds

import resnet_jax

# Programs, one of which makes the package unimportable to prove a point, and what needs torch.
OTHERS = {
    'export.reload_stablehlo',
    'benchmark.peer',
    'benchmark.torch_classics',
    'benchmark.torch_networks',
    'benchmark.torch_pictures',
    'benchmark.torch_resnets',
    'benchmark.torch_speedrun',
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(resnet_jax.__path__, 'resnet_jax.')
    if module.name.removeprefix('resnet_jax.') not in OTHERS
]

SCRIPT = """
import os, sys
before = dict(os.environ)
import {modules}
from jax._src import xla_bridge

assert not xla_bridge._backends, 'a backend was started'
assert dict(os.environ) == before and sys.modules['jax'].config.jax_compilation_cache_dir is None
print(*sorted({{name.partition('.')[0] for name in sys.modules}}))
"""


def imported(*modules):
    """The top-level packages that an import of these modules brings, on a platform that does not exist, and its CPU seconds."""
    changes = {'JAX_PLATFORMS': 'nonsense', 'JAX_COMPILATION_CACHE_DIR': None}
    env = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    before = children_seconds()
    code = SCRIPT.format(modules=', '.join(modules))
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=120)
    after = children_seconds()
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()), after - before


def test_no_module_touches_a_backend_or_the_compilation_cache():
    packages, _ = imported(*MODULES)
    assert 'resnet_jax' in packages and not packages & {'tensorflow', 'torch'}


def test_the_models_and_the_training_loop_are_imported_soon():
    seconds = []
    for _ in range(3):
        packages, used = imported('resnet_jax', 'resnet_jax.models', 'resnet_jax.training.loop')
        seconds.append(used)
    # Processor seconds: about 0.9 on an idle machine, and three times as many where others use the same cores.
    assert min(seconds) < 6
    slow = {'orbax', 'tensorflow_datasets', 'tensorboardX', 'matplotlib', 'sklearn', 'scipy', 'tensorflow', 'torch'}
    assert not packages & slow
