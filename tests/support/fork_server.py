"""A process that has imported what the commands import, and forks once for each command that a test runs.

A command that starts like this spares about two seconds of processor time, the imports. Everything else is its own: process id,
arguments, environment, folder, streams, JAX's backend, and the way it exits. `commands_support` decides which commands may.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_LONGEST = 2**18  # bytes of a request

# Imported by a run in its functions; the modules of the package import the rest.
_IMPORTED = ('orbax.checkpoint', 'tensorboardX', 'PIL.Image', 'jax.experimental.multihost_utils')
# Of the package: programs, what needs torch or an extra, and data, because pyarrow starts a thread.
_NOT_IMPORTED = ('benchmark', 'data', 'export', 'serve')


class ForkServer:
    """Starts commands from a process with this environment, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def run(self, script, arguments, folder, environment, streams, timeout):
        """Runs `python script arguments` in a fork.

        Args:
          streams: file descriptors of its standard input, output and error output.
          timeout: seconds after which it is killed.

        Returns:
          Its exit code, negative for a signal as subprocess has it, and the processor seconds that it took.

        Raises:
          TimeoutError: the timeout.
        """
        request = {'script': script, 'arguments': arguments, 'folder': folder, 'environment': environment}
        socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
        pid = self._answer()
        self._socket.settimeout(timeout)
        try:
            status, seconds = self._answer()
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._socket.settimeout(None)
            self._answer()
            raise
        finally:
            self._socket.settimeout(None)
        return os.waitstatus_to_exitcode(status), seconds

    def _answer(self):
        answer = self._socket.recv(_LONGEST)
        assert answer, f'the fork server ended with exit code {self._process.wait()}'
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self._socket.close()
        self._process.wait()


def _import_all():
    """Imports what the commands import; no thread may be started by that, and no backend of JAX."""
    import resnet_jax

    for name in _IMPORTED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(resnet_jax.__path__, 'resnet_jax.', onerror=lambda name: None):
        if not module.name.removeprefix('resnet_jax.').startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)


def _check_threads():
    """Checks that there is only this thread, because a lock that another one holds would never be released in a fork."""
    if not (pid := os.fork()):
        os._exit(0)
    os.waitpid(pid, 0)  # OpenBLAS, in NumPy and SciPy, has stopped its threads before this fork
    for _ in range(100):
        if len([*Path('/proc/self/task').iterdir()]) == 1:
            return
        time.sleep(0.1)  # a thread that has been joined is still listed for a moment
    sys.exit('an import has started a thread')


def _serve(connection):
    """Forks for each request; returns in the fork, with the request and the streams."""
    while True:
        message, streams, *_ = socket.recv_fds(connection, _LONGEST, 3)
        if not message:
            os._exit(0)
        pid = os.fork()
        if not pid:
            connection.close()
            return json.loads(message), streams
        for stream in streams:
            os.close(stream)
        with contextlib.suppress(OSError):  # pytest has been killed
            connection.send(json.dumps(pid).encode())
        _, status, usage = os.wait4(pid, 0)
        with contextlib.suppress(OSError):
            connection.send(json.dumps((status, usage.ru_utime + usage.ru_stime)).encode())


def _become(request, streams):
    """Gives this process what a new one would have."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request['folder'])
    os.environ.clear()
    os.environ.update(request['environment'])
    sys.argv = [request['script'], *request['arguments']]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[0] = str(Path(request['script']).parent)


if __name__ == '__main__':
    gc.disable()
    _import_all()
    gc.enable()
    gc.freeze()  # a collection in a fork would write to, and so copy, every page
    _check_threads()
    _request, _streams = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(_request, _streams)
    runpy.run_path(_request['script'], run_name='__main__')  # at the top, so that it ends as any Python program does
