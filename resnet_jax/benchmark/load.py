"""Puts load on an HTTP server on this machine: clients, some hostile, that wait for each answer before the next request."""

import asyncio
import base64
import contextlib
import io
import json
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

_PATIENCE = 120.0  # seconds for an answer; after that the answer counts as lost


class Answer(NamedTuple):
    """An answer: its status (0 if the connection ended without a status), its body, and its time in seconds."""

    status: int
    body: bytes
    seconds: float


class Client:
    """An HTTP/1.1 client that keeps its connection; do not share it between concurrent requests."""

    def __init__(self, port: int):
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Answer:
        """Sends a request, which may be malformed, and returns the answer."""
        before = time.perf_counter()
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection('127.0.0.1', self._port)
            assert self._reader is not None
            self._writer.write(request)
            async with asyncio.timeout(_PATIENCE):
                with contextlib.suppress(ConnectionError):  # the server may have answered before the whole request was sent
                    await self._writer.drain()
                head = (await self._reader.readuntil(b'\r\n\r\n')).decode('latin-1').lower()
                length = head.partition('content-length: ')[2].partition('\r')[0]
                body = await (self._reader.readexactly(int(length)) if length else self._reader.read())
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return Answer(0, b'', time.perf_counter() - before)
        if 'connection: close' in head or not length:
            self.close()
        return Answer(int(head.split()[1]), body, time.perf_counter() - before)

    async def leave(self, request: bytes) -> None:
        """Sends a part of a request and closes the connection."""
        with contextlib.suppress(OSError):
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection('127.0.0.1', self._port)
            self._writer.write(request)
            await self._writer.drain()
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def post(path: str, body: bytes, kind: str = 'application/json') -> bytes:
    """Returns the bytes of a request."""
    head = f'POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n'
    return head.encode() + body


def with_images(*images: bytes, path: str = '/v1/predict') -> bytes:
    """Returns a request with image files as JSON."""
    return post(path, json.dumps({'images': [base64.b64encode(image).decode() for image in images]}).encode())


def sample_image(shape: Sequence[int]) -> bytes:
    """Returns a PNG of noise with a shape (height, width, channels)."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels).save(file, 'PNG')
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """Returns a PNG of a few bytes whose head claims an image of `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')


class Hostile(NamedTuple):
    """A bad request: its name, its bytes, and the expected status; None for a client that disconnects."""

    name: str
    request: bytes
    status: int | None


def hostile_requests(image: bytes, largest_body: int, most_images: int) -> list[Hostile]:
    """Returns every kind of bad request that a server must withstand.

    Args:
      image: a good image file.
      largest_body, most_images: limits of the server.
    """
    good, form = with_images(image), 'multipart/form-data; boundary=x'
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return [
        Hostile('JSON that is cut', post('/v1/predict', b'{"images": ["'), 422),
        Hostile('JSON nested deep', post('/v1/predict', b'[' * 100_000), 422),
        Hostile('JSON of another shape', post('/v1/predict', b'[1, 2, 3]'), 422),
        Hostile('base64 that is none', post('/v1/predict', b'{"images": ["%%%%"]}'), 422),
        Hostile('noise for an image', with_images(np.random.default_rng(1).bytes(5000)), 422),
        Hostile('an image that is cut', with_images(image[: len(image) // 2]), 422),
        Hostile('an image bomb', with_images(bomb()), 413),
        Hostile('too many images', with_images(*[b''] * (most_images + 1)), 413),
        Hostile('a body that is too large', post('/v1/predict', bytes(largest_body + 1)), 413),
        Hostile('a form that is cut', post('/v1/predict', part + image, form), 422),
        Hostile('a form of noise', post('/v1/predict', np.random.default_rng(2).bytes(5000), form), 422),
        Hostile('another type', post('/v1/predict', image, 'image/png'), 415),
        Hostile('an unknown path', post('/v1/predikt', b'{}'), 404),
        Hostile('another method', good.replace(b'POST', b'DELETE', 1), 405),
        Hostile('what is not HTTP', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n', 400),
        Hostile('a client that goes away', good[: len(good) // 2], None),
        Hostile('a client that does not wait', good, None),
    ]


async def measure_load(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    """Sends requests from several clients at once for some seconds; returns the time of each answer in seconds.

    Raises:
      RuntimeError: an answer is not 200.
    """
    end = time.perf_counter() + seconds
    taken: list[float] = []

    async def ask() -> None:
        with contextlib.closing(Client(port)) as client:
            while time.perf_counter() < end:
                answer = await client.ask(request)
                if answer.status != 200:
                    raise RuntimeError(f'the server answers {answer.status}: {answer.body[:200]!r}')
                taken.append(answer.seconds)

    await asyncio.gather(*(ask() for _ in range(clients)))
    return taken


async def storm(port: int, good: bytes, hostile: Sequence[Hostile], requests: Iterable[int], clients: int = 16) -> Counter[str]:
    """Sends requests, every tenth of them hostile.

    Args:
      requests: the numbers of the requests; they determine which requests are hostile, and how.

    Returns:
      The number of requests with each outcome: 'good', 'refused' (hostile, with the expected status), 'left' (by the client),
      and '<name>: <status>' for any other outcome, which counts as lost.
    """
    outcomes: Counter[str] = Counter()
    numbers = iter(requests)

    async def ask() -> None:
        with contextlib.closing(Client(port)) as client:
            for number in numbers:
                if number % 10 != 9:
                    answer = await client.ask(good)
                    outcomes['good' if answer.status == 200 else f'a good request: {answer.status}'] += 1
                    continue
                bad = hostile[number // 10 % len(hostile)]
                if bad.status is None:
                    await client.leave(bad.request)
                    outcomes['left'] += 1
                else:
                    answer = await client.ask(bad.request)
                    outcomes['refused' if answer.status == bad.status else f'{bad.name}: {answer.status}'] += 1

    await asyncio.gather(*(ask() for _ in range(clients)))
    return outcomes
