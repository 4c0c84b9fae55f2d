"""Times the serve command under load, compared with a plain onnxruntime server; floods it with requests, some hostile."""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from resnet_jax import plugins
from resnet_jax.benchmark import load
from resnet_jax.benchmark.command import COMMAND
from resnet_jax.benchmark.measure import Effort, summary
from resnet_jax.data.on_demand import cores
from resnet_jax.errors import ConfigError, UserError
from resnet_jax.typing import JsonDict, Row

CLIENTS = (1, 8, 64)
_SIDES = {'ours': 'resnet_jax, in batches', 'onnxruntime': 'onnxruntime, one image after the other'}
_SAMPLES = 10  # number of memory samples during a storm
_PAUSE = 0.1  # seconds between two measurements
_SAID = 'Serving at http://127.0.0.1:'


class Server:
    """A process that serves on a port of this machine; a context manager."""

    def __init__(self, command: Sequence[str]):
        """Starts a command, and waits until it prints that it serves.

        Raises:
          UserError: the command ends earlier.
        """
        self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (closed at the end)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self._process.stdout
        lines = iter(self._process.stdout)
        announced = next((line for line in lines if line.startswith(_SAID)), None)
        if announced is None:
            code = self._process.wait()
            self._errors.seek(0)
            said = [line for line in self._errors.read().splitlines() if line.strip()] or ['']
            self._close()
            error = UserError(f'the server ended with exit code {code}: {said[-1].removeprefix("error: ")}')
            error.exit_code = code if code in range(2, 7) else 1
            raise error
        self.port = int(announced.removeprefix(_SAID))

    def get(self, path: str) -> JsonDict:
        """Returns the JSON at a path."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request('GET', path)
            content: JsonDict = json.loads(connection.getresponse().read())
            return content

    def resident_bytes(self) -> int:
        """Returns the resident memory of the process."""
        kibibytes = subprocess.run(['ps', '-o', 'rss=', '-p', str(self._process.pid)], capture_output=True, check=True).stdout
        return 1024 * int(kibibytes)

    def __enter__(self) -> 'Server':
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        assert self._process.stdout
        self._process.stdout.close()
        self._errors.close()


def measure_serving(
    model: str, effort: Effort, *, requests: int = 0, progress: Callable[[str], None] = lambda line: None
) -> Row:
    """Measures images/s and the time to an answer, in turns with a plain server of the network.

    Each client sends one image, a PNG of the network's size, in each request, and waits for the answer. The clients share the
    cores with the server.

    Args:
      model: a MODEL of the serve command.
      requests: number of additional requests, a tenth of them hostile, during which the memory of the server is measured.

    Returns:
      'clients': for each of CLIENTS and each side 'images_per_second' (a summary over the rounds), 'p50_ms' and 'p99_ms' over
      all answers, and 'answers'; 'storm', if `requests` is not 0: 'outcomes' of `load.storm`, 'lost' and 'resident_bytes' at
      the start and after each tenth; the facts of the machine.

    Raises:
      UserError: the model cannot be served or exported, or a package is missing.
    """
    versions = {name: metadata.version(name) for name in ('resnet_jax', 'jax', 'onnxruntime', 'uvicorn', 'starlette')}
    row: Row = {'model': model, 'cores': cores(), 'versions': versions}
    ours = Server([*COMMAND, 'serve', *plugins.import_flags(), model, '--port=0'])
    with ours, _exported(model) as folder, Server([sys.executable, '-m', 'resnet_jax.benchmark.onnx_server', folder]) as theirs:
        served = ours.get('/v1/models')
        row['image_shape'] = served['models'][0]['image_shape']
        image = load.sample_image(row['image_shape'])
        _check_equal_answers(ours, theirs, image)
        sides = {'ours': ours, 'onnxruntime': theirs}
        row['clients'] = {}
        for clients in CLIENTS:
            row['clients'][clients] = {
                side: _describe(taken, effort.seconds)
                for side, taken in _measure(sides, load.with_images(image), clients, effort).items()
            }
            shown = ', '.join(
                f'{side} {each["images_per_second"]["median"]:.0f} images/s, p99 {each["p99_ms"]:.1f} ms'
                for side, each in row['clients'][clients].items()
            )
            progress(f'{clients} clients: {shown}')
        if requests:
            row['storm'] = storm(ours, image, served['limits'], requests, progress)
    return row


def storm(server: Server, image: bytes, limits: JsonDict, requests: int, progress: Callable[[str], None]) -> Row:
    """Sends many requests, a tenth of them hostile: see `measure_serving`."""
    good, hostile = load.with_images(image), load.hostile_requests(image, limits['bytes'], limits['images'])
    asyncio.run(load.storm(server.port, good, hostile, range(10 * len(hostile))))  # memory first grows to its normal size
    memory = [server.resident_bytes()]
    outcomes: dict[str, int] = {}
    for part in np.array_split(np.arange(requests), _SAMPLES):
        for outcome, count in asyncio.run(load.storm(server.port, good, hostile, part.tolist())).items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        memory.append(server.resident_bytes())
        progress(f'{sum(outcomes.values()):,} of {requests:,} requests, {memory[-1] / 2**20:.0f} MiB')
    lost = sum(count for outcome, count in outcomes.items() if outcome not in ('good', 'refused', 'left'))
    return {'requests': sum(outcomes.values()), 'outcomes': outcomes, 'lost': lost, 'resident_bytes': memory}


def table(row: Row) -> str:
    """Returns the measurements as Markdown."""
    versions = ', '.join(f'{name} {version}' for name, version in row['versions'].items())
    shape = ' x '.join(map(str, row['image_shape']))
    lines = [
        f'{row["model"]}, images of {shape}, {row["cores"]} cores that the clients share; {versions}',
        '',
        '| clients | server | images/s | lowest-highest | rounds | p50 (ms) | p99 (ms) | answers |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for clients, sides in row['clients'].items():
        for side, each in sides.items():
            rate = each['images_per_second']
            cells = [clients, _SIDES[side], f'{rate["median"]:.0f}', f'{rate["low"]:.0f}-{rate["high"]:.0f}', rate['n']]
            cells += [f'{each["p50_ms"]:.1f}', f'{each["p99_ms"]:.1f}', f'{each["answers"]:,}']
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    if 'storm' in row:
        result = row['storm']
        first, *others = (size / 2**20 for size in result['resident_bytes'])
        outcomes = ', '.join(f'{count:,} {outcome}' for outcome, count in sorted(result['outcomes'].items()))
        lines += [
            '',
            f'{result["requests"]:,} requests, a tenth of them hostile: {result["lost"]} lost ({outcomes}); resident memory '
            f'{first:.0f} MiB before, {min(others):.0f} to {max(others):.0f} MiB meanwhile, {others[-1]:.0f} MiB at the end',
        ]
    return '\n'.join(lines)


def _measure(sides: dict[str, Server], request: bytes, clients: int, effort: Effort) -> dict[str, list[list[float]]]:
    """Returns, for each side and each round, the time of each answer in seconds."""
    taken: dict[str, list[list[float]]] = {side: [] for side in sides}
    for server in sides.values():  # these answers are not counted
        asyncio.run(load.measure_load(server.port, request, clients, effort.seconds / 4))
    for _ in range(effort.rounds):
        for side, server in sides.items():
            time.sleep(_PAUSE)
            taken[side].append(asyncio.run(load.measure_load(server.port, request, clients, effort.seconds)))
    return taken


def _describe(rounds: list[list[float]], seconds: float) -> Row:
    milliseconds = 1000 * np.concatenate(rounds)
    return {
        'images_per_second': summary([len(taken) / seconds for taken in rounds]),
        'p50_ms': float(np.percentile(milliseconds, 50)),
        'p99_ms': float(np.percentile(milliseconds, 99)),
        'answers': len(milliseconds),
    }


def _check_equal_answers(ours: Server, theirs: Server, image: bytes) -> None:
    """Checks that the answers of both servers are equal."""

    async def ask(port: int) -> JsonDict:
        content: JsonDict = json.loads((await load.Client(port).ask(load.with_images(image))).body)
        return content

    first, second = (asyncio.run(ask(server.port))['predictions'][0] for server in (ours, theirs))
    if first['class'] != second['class'] or abs(first['probability'] - second['probability']) > 0.01:
        raise RuntimeError(f'the servers answer differently: {first["top"]} and {second["top"]}')


@contextlib.contextmanager
def _exported(model: str) -> Iterator[str]:
    """Yields an exported folder with model.onnx.

    Raises:
      ConfigError: the model cannot be exported.
    """
    if Path(model, 'model.onnx').is_file():
        yield model
        return
    flag = f'--workdir={model}' if Path(model, 'checkpoints').is_dir() else f'--weights={model}'
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, 'exported')  # noqa: PTH118
        command = [*COMMAND, 'export', *plugins.import_flags(), flag, f'--out={out}', '--format=onnx']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [''])[-1].removeprefix('error: ')
            raise ConfigError(f'{model} cannot be exported to compare with: {said}')
        yield out
