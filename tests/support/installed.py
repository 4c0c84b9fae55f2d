"""Runs `python -m resnet_jax` as a user does who has installed the package: anywhere, without the checkout."""

import os
import subprocess
import sys

# A run as small as it can be.
TINY = (
    '--config.num_epochs=2',
    '--config.warmup_epochs=0.5',
    '--config.log_every=20',
    '--config.checkpoint_every_epochs=1',
)


def quick_to_compile():
    """Returns the environment of a command that a test starts: it compiles in half the time, to slower programs.

    XLA_FLAGS of this process are not in it: a command that has some first looks in a process of its own whether XLA knows them.
    """
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return {**kept, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}


def resnet_jax(folder, *arguments, code=0, **environment):
    """Runs a command in a folder, checks its exit code, and returns it."""
    done = subprocess.run(
        [sys.executable, '-m', 'resnet_jax', *map(str, arguments)],
        cwd=folder,
        env={**quick_to_compile(), 'JAX_NUM_CPU_DEVICES': '1', 'PYTHONUNBUFFERED': '1', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, f'exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}'
    assert 'Traceback' not in done.stderr + done.stdout
    return done
