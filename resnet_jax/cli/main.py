"""Residual networks for JAX: `resnet-jax COMMAND [FLAGS]`.

  train      train a config, or continue a run
  evaluate   evaluate a run or weights on a test set
  predict    classify image files
  convert    convert weights from and to PyTorch
  export     export a run for serving, as StableHLO and ONNX
  serve      answer requests over HTTP, with a page to try networks
  compare    report on runs side by side
  study      make every run of a study, and its report
  benchmark  measure speed
  data       prepare, check and describe a data set
  models     list the networks, the layers of one, or published weights

`resnet-jax COMMAND --help` lists the flags of a command.
"""

import gc
import importlib
import os
import signal
import sys
from types import FrameType

from resnet_jax.runtime import streams

COMMANDS = (
    *('train', 'evaluate', 'predict', 'convert', 'export', 'serve'),
    *('compare', 'study', 'benchmark', 'data', 'models'),
)


def main(verb: str | None = None) -> None:
    """Runs a command with the arguments of the process, and exits.

    Args:
      verb: name of the command; None to take it from the arguments.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    arguments, name = sys.argv[1:], f'python bin/{verb}.py'
    if verb is None:
        if not arguments or arguments[0] in ('--help', '-h', 'help'):
            sys.exit(streams.finish(0 if arguments else 2, (__doc__ or '').strip()))
        if arguments[0] == '--version':
            import resnet_jax

            sys.exit(streams.finish(0, resnet_jax.__version__))
        verb, arguments = arguments[0], arguments[1:]
        name = f'resnet-jax {verb}'
    if verb not in COMMANDS:
        from resnet_jax.errors import did_you_mean

        streams.tell(f'error: no command {verb!r}{did_you_mean(verb, COMMANDS)}; expected one of {", ".join(COMMANDS)}')
        sys.exit(2)
    if verb in ('train', 'evaluate'):
        from resnet_jax.runtime import huge_pages

        huge_pages.use()  # before anything else, because it restarts this process
    # Imports make a million objects and no garbage; with Python's default of 700 the collector would scan them repeatedly.
    gc.set_threshold(50_000)
    from resnet_jax.cli import command

    command.run(importlib.import_module(f'resnet_jax.cli.{verb}'), arguments, name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGINT like Python, except during imports: C code that imports a module may discard the exception."""
    while frame:
        if frame.f_code.co_filename == '<frozen importlib._bootstrap>':
            streams.tell_at_once(b'Interrupted.\n')
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == '__main__':
    main()
