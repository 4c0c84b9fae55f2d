"""Coordinates the processes of a run.

No overhead for a single process."""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import resnet_jax
from resnet_jax.errors import ConfigError, DivergedError, Interrupted, LostPeerError
from resnet_jax.runtime import watchdog
from resnet_jax.runtime.environment import source_hash
from resnet_jax.typing import Json

_LOCAL_FIELDS = ('data_dir', 'data_archive')  # may differ between machines

_watchdog: watchdog.Watchdog | None = None
_claim: socket.socket | None = None  # held while this process lives
_joined = False  # whether `initialize` joined the processes; a program that uses the package may join them itself


def initialize(address: str | None, num_processes: int | None, process_id: int | None, timeout: int) -> None:
    """Joins the other processes; call it before any other use of JAX.

    Arguments that are None come from the cluster (SLURM, MPI, Kubernetes).

    Args:
      address: 'host:port' of process 0.
      timeout: seconds to wait for the other processes.

    Raises:
      ConfigError: an argument is missing or wrong.
      LostPeerError: another program uses the port, or another process on this machine has the id.
    """
    global _claim, _joined
    if address:
        port = _check_arguments(address, num_processes, process_id)
        if process_id == 0 and 'JAX_COORDINATOR_BIND_ADDRESS' not in os.environ:
            _check_free(port)
        if process_id is not None and sys.platform == 'linux':
            _claim = _claim_id(address, process_id)
    where = f' at {address}' if address else ''
    missing = f'process 0 was not reached{where}' if process_id else f'not all of the other processes came to process 0{where}'
    watchdog.catch_abort(
        f'{missing} within {timeout} seconds (initialization_timeout); check that all were started, and start all again'
    )
    # JAX's SIGTERM handler would replace the handler of StopSignal, which saves the state.
    jax.config.update('jax_enable_preemption_service', False)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would not run while JAX waits
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=watchdog.HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f'the other processes are not found: {error} Give coordinator_address, num_processes and process_id.'
        ) from None
    finally:
        signal.signal(signal.SIGINT, interrupt)
    _joined = True


def _check_arguments(address: str, num_processes: int | None, process_id: int | None) -> int:
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f'coordinator_address is {address!r}; expected HOST:PORT of process 0, as node1:1234')
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f'num_processes is {num_processes}; expected at least 1')
    if process_id is not None and not 0 <= process_id < (num_processes or 2**31):
        raise ConfigError(f'process_id is {process_id} and num_processes {num_processes}; expected 0 to one less')
    return int(port)


def _check_free(port: int) -> None:
    # JAX crashes with a segmentation fault if the port is taken.
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
            probe.listen()
        except OSError as error:
            raise LostPeerError(
                f'process 0 cannot open port {port}: {error.strerror}; if it is not an earlier run that is just ending, '
                'choose another in coordinator_address; then start all processes again'
            ) from None


def _claim_id(address: str, process_id: int) -> socket.socket:
    """Returns a socket that prevents other processes on this machine from joining with the same id.

    Otherwise JAX's coordination service would abort() all processes of the run that already has the id.

    Raises:
      LostPeerError: another process on this machine has the id.
    """
    host, _, port = address.rpartition(':')
    with contextlib.suppress(OSError, UnicodeError):  # JAX reports an unknown host
        resolved = ipaddress.ip_address(socket.getaddrinfo(host.strip('[]'), port)[0][4][0])
        host = 'localhost' if resolved.is_loopback else str(resolved)
    # An abstract name (Linux) has no file, and is free again however the process ends.
    name = f'\0resnet_jax/{host}:{port}/{process_id}'
    claim = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + watchdog.HEARTBEAT_SECONDS + 2
    while True:
        try:
            claim.bind(name)
            return claim
        except OSError:
            if time.monotonic() > end:  # by now the processes of an earlier run have noticed its end
                claim.close()
                raise LostPeerError(
                    f'another process on this machine has joined {address} as process {process_id}; '
                    'expected a process_id of its own for each, and another port for another run'
                ) from None
        time.sleep(0.2)


def broadcast(number: int) -> int:
    """Returns process 0's number in every process. This is a barrier."""
    if jax.process_count() == 1:
        return number
    with _waiting():
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def barrier() -> None:
    """Returns when every process has called this function."""
    broadcast(0)


def any_signal(number: int | None) -> int | None:
    """Returns, in every process, the largest signal number passed by any process; None if all pass None. A barrier."""
    if jax.process_count() == 1:
        return number
    with _waiting():
        return int(multihost_utils.process_allgather(np.int32(number or 0)).max()) or None


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    if _watchdog:
        _watchdog.waiting += 1
    yield
    if _watchdog:
        _watchdog.moved = time.monotonic()


def assert_equal(name: str, values: Json) -> None:
    """Checks that JSON values are equal in all processes of the `process_group`.

    Raises:
      ConfigError: the values differ; names another process, the fields, and their values there and in process 0.
    """
    if _watchdog is None:
        return
    store, rank, key = watchdog.store(), jax.process_index(), f'{_watchdog.keys}{name}/'
    store.key_value_set(f'{key}{rank}', json.dumps(values))
    for other in range(1, jax.process_count()) if rank == 0 else (0,):
        text = store.blocking_key_value_get(f'{key}{other}', 3_600_000)  # ms; JAX ends the wait if the other process dies
        theirs = json.loads(text)
        first, second, process = (values, theirs, other) if rank == 0 else (theirs, values, rank)
        fields = [field for field in {**first, **second} if first.get(field) != second.get(field)]
        if fields:
            changes = '; '.join(f'{field}: {first.get(field)!r} -> {second.get(field)!r}' for field in fields)
            raise ConfigError(
                f'the {name} of process {process} is not that of process 0 ({changes}); expected the same in all: '
                'start all of them alike'
            )


def assert_shared(path: Path) -> None:
    """Checks that a file created by process 0 is visible in all processes.

    Raises:
      ConfigError: the file is not visible.
    """
    barrier()
    if not path.exists():
        raise ConfigError(
            f'process {jax.process_index()} does not see {path}, which process 0 has made; '
            'expected a run folder on a file system that all processes share'
        )


@contextlib.contextmanager
def process_group(config: Json, workdir: Path, resumes_from: Callable[[], Path | None]) -> Iterator[None]:
    """Exits every process if any of them fails in the body.

    Args:
      resumes_from: returns the checkpoint from which a restart continues, for the message; None if there is none.

    Raises:
      ConfigError: on entry: the processes have different configs, versions or numbers of devices.
    """
    global _watchdog
    if jax.process_count() == 1:
        yield
        return
    _watchdog = watchdog.Watchdog(workdir, config['watchdog_seconds'], resumes_from)
    try:
        _watchdog.start()
        assert_equal('config', {name: value for name, value in config.items() if name not in _LOCAL_FIELDS})
        versions = {'resnet_jax': resnet_jax.__version__, 'source files': source_hash(), 'jax': jax.__version__}
        assert_equal('environment', {**versions, 'local devices': jax.local_device_count()})
        yield
        barrier()  # no process leaves before process 0 has written its last file
        _watchdog.code = 0
    except (Interrupted, DivergedError) as error:  # all processes raise this error at the same step
        _watchdog.code = watchdog.exit_code(error)
        with contextlib.suppress(Exception):  # losing a process no longer matters
            barrier()
        raise
    except BaseException as error:
        told = _watchdog.fail(error)
        if _joined:
            watchdog.leave_at_exit(watchdog.exit_code(told))
        if told is error:
            raise
        raise told from None
    finally:
        _watchdog.stop()
