"""Overrides JAX settings that a run does not support, and explains settings with which JAX cannot start."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from resnet_jax.errors import ConfigError, one_line
from resnet_jax.runtime.streams import tell

# The config decides dtypes, devices and everything random; runs check for non-finite numbers themselves.
_OURS = {
    'jax_enable_x64': False,
    'jax_numpy_dtype_promotion': 'standard',
    'jax_disable_jit': False,
    'jax_debug_nans': False,
    'jax_debug_infs': False,
    'jax_transfer_guard': 'allow',
    'jax_transfer_guard_host_to_device': 'allow',
    'jax_transfer_guard_device_to_device': 'allow',
    'jax_transfer_guard_device_to_host': 'allow',
    'jax_default_prng_impl': 'threefry2x32',
    'jax_threefry_partitionable': True,
    'jax_random_seed_offset': 0,
    'jax_no_tracing': False,
    'jax_no_execution': False,
    'jax_error_checking_behavior_nan': 'ignore',
    'jax_error_checking_behavior_divide': 'ignore',
    'jax_error_checking_behavior_oob': 'ignore',
    'jax_compilation_cache_check_contents': False,
}
_OFF = ('', '0', 'false', 'f', 'no', 'n', 'off')
_ON = ('1', 'true', 't', 'yes', 'y', 'on')
_MOST_THREADS = max(1024, os.cpu_count() or 1)  # XLA has no limit; 100,000 threads end in a segmentation fault
_PARSE = 'from jaxlib import xla_client; xla_client.CompileOptions()'  # XLA ends the process if a flag is unknown
_START = 'import jax; jax.devices()'


def use_our_settings() -> None:
    """Makes this process and its child processes compute as the config says; warns about each setting that it overrides.

    Raises:
      ConfigError: XLA_FLAGS has an unknown flag, or a setting asks for too many devices.
    """
    _limit_threads()
    for name, value in _OURS.items():
        variable = name.upper()
        given = os.environ.get(variable)
        if given is not None and given.lower() not in (_ON if value is True else (*_OFF, value)):
            os.environ[variable] = str(value)  # JAX reads it on import;
            if jax := sys.modules.get('jax'):  # a config file may have imported JAX already
                jax.config.update(name, value)
            tell(f'warning: {variable}={given} is not followed here: the config says what is computed')
    if os.environ.get('XLA_FLAGS') and (reason := _failure(_PARSE)):
        raise ConfigError(f'XLA_FLAGS={os.environ["XLA_FLAGS"]!r} cannot be used ({reason}); correct or unset it')


def _limit_threads() -> None:
    flags = re.findall(r'--xla_force_host_platform_device_count=(\d+)', os.environ.get('XLA_FLAGS', ''))
    for variable, value in (
        ('JAX_NUM_CPU_DEVICES', os.environ.get('JAX_NUM_CPU_DEVICES', '')),
        *(('XLA_FLAGS', f) for f in flags),
    ):
        if value.isdecimal() and int(value) > _MOST_THREADS:
            raise ConfigError(f'{variable} asks for {value} CPU devices; expected at most {_MOST_THREADS}')
    given = os.environ.get('NPROC', '')
    if given.isdecimal() and int(given) > _MOST_THREADS:
        os.environ['NPROC'] = str(os.cpu_count() or 1)
        tell(f'warning: NPROC={given} is not followed here: XLA would start as many threads')


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """A context and decorator that computes as the config says, whatever the calling program has set."""
    import jax

    with contextlib.ExitStack() as stack:
        for setting in (jax.enable_x64(False), jax.numpy_dtype_promotion('standard'), jax.disable_jit(False)):
            stack.enter_context(setting)
        for setting in (jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard('allow')):
            stack.enter_context(setting)
        for setting in (jax.default_prng_impl('threefry2x32'), jax.threefry_partitionable(True)):
            stack.enter_context(setting)
        yield


def why_jax_does_not_start(error: Exception) -> ConfigError | None:
    """Returns why JAX does not start here, with the environment variables that cause it; None if it starts.

    Call it only after an unexpected error: JAX reports a failing platform only once, and then continues with the others.
    """
    reason = ''
    if re.match('(Unknown|Unable to initialize) backend', str(error)):
        reason = f'{type(error).__name__}: {one_line(error)}'
    elif jax := sys.modules.get('jax'):
        try:
            jax.devices()
        except Exception as again:
            reason = f'{type(again).__name__}: {one_line(again)}' if str(again) else 'no such device'
    else:  # JAX is not imported; a failed import leaves parts of it
        reason = _failure(_START)
    if not reason:
        return None
    names = ('JAX_', 'XLA_', 'CUDA_VISIBLE_DEVICES')
    variables = [f'{name}={value}' for name, value in sorted(os.environ.items()) if name.startswith(names)]
    return ConfigError(
        f'JAX does not start ({reason.rstrip(".")}); expected settings that fit this machine, as JAX_PLATFORMS=cpu; '
        f'these are set: {", ".join(variables) or "none"}'
    )


def _failure(code: str) -> str:
    """Runs code in a new process; returns the reason of its failure, '' if it succeeds."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, errors='replace')
    if not done.returncode:
        return ''
    lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
    # Python's error is the last line; XLA's error is the first line of a log, before a list of all flags.
    logged = [] if 'Traceback' in done.stderr else re.findall(r'^[EF]\d+ .*?\] (.*)$', done.stderr, re.MULTILINE)
    return str((logged or lines[-1:])[0])
