"""Serves networks over HTTP, with a page to try them: {name} MODEL [MODEL ...]

A MODEL is a run folder, a folder or file of the export command, a file of weights that names its model, or a name of
published weights. The page at http://127.0.0.1:8000 shows several models side by side. The API is at /v1/predict and
/v1/explain, its description at /openapi.json. Ctrl-C or SIGTERM stops the server after it has answered all accepted requests.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from resnet_jax.cli import command
from resnet_jax.cli.arguments import expand_home
from resnet_jax.errors import ConfigError, InputFileError
from resnet_jax.runtime.streams import tell
from resnet_jax.runtime.untrusted import printable, read_text

FLAGS = command.Flags()
FLAGS.define('string', 'host', '127.0.0.1', 'Address to listen at; 0.0.0.0 lets other machines in.')
FLAGS.define('integer', 'port', 8000, 'Port to listen at; 0 for any that is free.', lower_bound=0, upper_bound=65535)
FLAGS.define('path', 'token_file', None, 'File with a token that requests must have as Authorization: Bearer TOKEN.')
FLAGS.define('bool', 'ema', False, 'Use the averaged parameters of runs.')
FLAGS.define('integer', 'max_batch', 32, 'Most images in a batch, compiled for 1, 4, 16, ...', lower_bound=1, upper_bound=4096)
FLAGS.define('float', 'wait_ms', 2.0, 'Milliseconds that an image waits for others in a batch.', 0.0, 10_000.0)
FLAGS.define('integer', 'max_images', 64, 'Most images of a request (413).', lower_bound=1)
FLAGS.define('float', 'max_mib', 16.0, 'Most MiB of a request (413).', 0.001, 1e6)
FLAGS.define('float', 'max_megapixels', 50.0, 'Most million pixels of an image (413).', 0.001, 1e6)
FLAGS.define('integer', 'queue', 512, 'Most images in progress (429).', lower_bound=1)
FLAGS.define('float', 'timeout', 30.0, 'Most seconds for a body (408), and for an answer (504).', 0.1, 10_000.0)


def main(arguments: Sequence[str]) -> None:
    """Runs `resnet-jax serve` with the arguments that are not flags.

    Raises:
      ConfigError: no model is given, or a package is missing.
    """
    if not arguments:
        raise ConfigError('no model given; expected a run folder, an exported folder or a name, as runs/resnet18')
    paths = [expand_home(path) for path in arguments]
    names, token, host = _names(paths), _token(FLAGS.value('token_file')), FLAGS.value('host')
    try:
        from resnet_jax.serve import server
    except ImportError as error:
        package = (error.name or '').partition('.')[0]
        if package not in ('starlette', 'uvicorn', 'python_multipart', 'h11', 'anyio'):
            raise
        raise ConfigError(f"serve needs {package}; expected it: pip install 'resnet_jax[serve]'") from None
    from resnet_jax.runtime.console import log_to_console
    from resnet_jax.serve.app import Service
    from resnet_jax.serve.limits import Limits
    from resnet_jax.serve.network import load_network

    log_to_console('stderr')
    limits = Limits(
        body_bytes=round(2**20 * FLAGS.value('max_mib')),
        pixels=round(1e6 * FLAGS.value('max_megapixels')),
        images=FLAGS.value('max_images'),
        queue=FLAGS.value('queue'),
        seconds=FLAGS.value('timeout'),
    )
    largest = FLAGS.value('max_batch')
    sizes = [*itertools.takewhile(lambda size: size < largest, (4**i for i in itertools.count())), largest]
    bound = server.bind(host, FLAGS.value('port'))
    address, port = bound.getsockname()[:2]
    if not server.is_loopback(address) and token is None:
        tell(f'warning: anyone who reaches this machine at {address}:{port} can use it; expected --token_file=FILE for a token')
    networks = []
    for path, name in zip(paths, names, strict=True):
        network = load_network(path, name, sizes, sorted({1, min(8, largest)}), ema=FLAGS.value('ema'))
        height, width, channels = network.image_shape
        text = f'{name}: {len(network.class_names)} classes, images of {height} x {width} x {channels}'
        print(printable(text), flush=True)
        networks.append(network)

    def ready() -> None:
        print(f'Serving at http://{f"[{address}]" if ":" in address else address}:{port}', flush=True)

    service = Service(networks, limits, wait=FLAGS.value('wait_ms') / 1000, token=token is not None)
    server.serve(service, bound, limits, token, ready)
    print('Stopped; everything that was accepted is answered.')


def _names(paths: Sequence[str]) -> list[str]:
    """Returns a name for each model: the name of the folder or file, with enough of its path to make the names unique.

    Raises:
      ConfigError: a model is given twice.
    """
    parts = [Path(path).resolve().parts if Path(path).exists() else (path,) for path in paths]
    names = []
    for path, own in zip(paths, parts, strict=True):
        if parts.count(own) > 1:
            raise ConfigError(f'{path} is given {parts.count(own)} times; expected different models')
        others = [other for other in parts if other != own]
        length = next(n for n in range(1, len(own) + 1) if n == len(own) or all(o[-n:] != own[-n:] for o in others))
        names.append('/'.join(own[-length:]))
    return names


def _token(path: str | None) -> str | None:
    """Returns the token in a file.

    Raises:
      InputFileError: the file cannot be read, or contains no token.
    """
    if path is None:
        return None
    try:
        token = read_text(Path(path)).strip()
    except (OSError, ValueError) as error:  # a ValueError: the path contains a null character
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputFileError(f'{path} cannot be read ({reason}); expected a file with a token') from None
    if not token.isascii() or not token.isprintable() or not 8 <= len(token) <= 1000 or ' ' in token:
        raise InputFileError(f'{path} holds no token; expected one line of 8 to 1,000 characters without spaces')
    return token
