"""Runs each side in a separate process that works only on request, so that idle threads do not slow down the other side.

`python -m resnet_jax.benchmark.worker SIDE` reads requests from standard input and writes answers to standard output; each
request and each answer is one line of JSON.
"""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax import plugins
from resnet_jax.errors import ConfigError, ResourceError, UserError, is_out_of_memory
from resnet_jax.runtime import huge_pages
from resnet_jax.runtime.jax_settings import why_jax_does_not_start

_SIDES = {
    'ours': ('resnet_jax.benchmark.ours', 'Steps'),
    'ahead': ('resnet_jax.benchmark.ahead', 'Ahead'),
    'layers': ('resnet_jax.benchmark.ours', 'Layers'),
    'augmentations': ('resnet_jax.benchmark.augmentation', 'Augmentations'),
    'decoding': ('resnet_jax.benchmark.decoding', 'Decoding'),
    'own_loops': ('resnet_jax.benchmark.own_loops', 'OwnLoops'),
    'seeds': ('resnet_jax.benchmark.seeds', 'SeedSteps'),
    'torch': ('resnet_jax.benchmark.peer', 'TorchSteps'),
    'torch_layers': ('resnet_jax.benchmark.peer', 'Layers'),
    'torch_decoding': ('resnet_jax.benchmark.torch_pictures', 'Decoding'),
}


class Worker:
    """A context manager for a process; `worker('train', steps=3)` calls that method of its class in `_SIDES`.

    Attributes:
      idle: largest share of a core that the process used between requests; if this is not about 0, the process disturbed the
        other side's measurements.

    Raises:
      UserError: an error in the process: PyTorch lacks the network, memory is exhausted, ...
    """

    def __init__(self, side: str, environment: Mapping[str, str], **kwargs: object):
        self.side, self.idle = side, 0.0
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get('PYTHONPATH')])])
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__, side, *(plugins.imported if 'torch' not in side else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends only this process; this process then ends the worker
            env={**os.environ, **huge_pages.environment(), **environment, 'PYTHONPATH': path},  # huge pages, like training
        )
        try:
            self('__init__', **kwargs)
        except BaseException:
            self.__exit__()
            raise

    def __call__(self, method: str, **kwargs: object) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({'method': method, 'kwargs': kwargs}), file=self._process.stdin, flush=True)
            reply = json.loads(self._process.stdout.readline() or 'null')
        except BrokenPipeError:
            reply = None
        if reply is None:
            code = self._process.wait()
            if code == -9:
                raise ResourceError(f'the process that measures {self.side} was killed: out of memory? lower batch_size')
            raise RuntimeError(f'the process that measures {self.side} ended with exit code {code}')
        self.idle = max(self.idle, reply.get('idle', 0.0))
        if 'error' in reply:
            raise _error(reply['error'], reply['exit_code'])
        return reply['result']

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process.stdin.close()


def _error(message: str, exit_code: int) -> UserError:
    error = ConfigError(message) if exit_code == ConfigError.exit_code else UserError(message)
    error.exit_code = exit_code
    return error


def _serve(side: str) -> None:
    if sys.platform == 'linux':  # end with the parent, even if the parent is killed during a request
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    replies = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # redirects output of libraries to standard error
    instance: object = None
    ended, used = time.monotonic(), time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        waited = time.monotonic() - ended
        # Ignore short waits: a thread pool spins for some milliseconds before it sleeps.
        reply: dict[str, object] = {'idle': (time.process_time() - used) / waited if waited > 0.2 and instance else 0.0}
        try:
            if request['method'] == '__init__':
                instance = _load(side)(**request['kwargs'])
                reply['result'] = None
            else:
                reply['result'] = getattr(instance, request['method'])(**request['kwargs'])
        except UserError as error:
            reply.update(error=str(error), exit_code=error.exit_code)
        except Exception as error:
            if is_out_of_memory(error):
                reply.update(error='out of device memory; expected less at once: lower batch_size', exit_code=5)
            elif 'torch' not in side and (reason := why_jax_does_not_start(error)):
                reply.update(error=str(reason), exit_code=reason.exit_code)
            else:
                traceback.print_exc()
                reply.update(error=f'{type(error).__name__}: {error}', exit_code=1)
        print(json.dumps(reply), file=replies, flush=True)
        ended, used = time.monotonic(), time.process_time()


def _load(side: str) -> Callable[..., object]:
    try:
        module, name = _SIDES[side]
        measured_class: Callable[..., object] = getattr(importlib.import_module(module), name)
        return measured_class
    except ImportError as error:
        if (error.name or '').partition('.')[0] != 'torch':
            raise
        raise ConfigError('the peer needs PyTorch, which is not installed; expected it: pip install torch') from None


if __name__ == '__main__':
    plugins.import_modules(sys.argv[2:])
    _serve(sys.argv[1])
