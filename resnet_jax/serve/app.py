"""The ASGI application: the API and the page."""

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TypeVar

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resnet_jax.data.images import TooManyPixelsError
from resnet_jax.data.on_demand import cores
from resnet_jax.errors import InputFileError, did_you_mean, is_out_of_memory
from resnet_jax.serve import openapi
from resnet_jax.serve.batching import Batcher, Item
from resnet_jax.serve.bodies import Question, parse, read_body
from resnet_jax.serve.guard import Answer, error
from resnet_jax.serve.limits import Admission, Admitted, Limits, RequestError
from resnet_jax.serve.network import Network
from resnet_jax.serve.program import Program
from resnet_jax.typing import JsonDict

T = TypeVar('T')

_SMALL = 2**16  # bytes and pixels; smaller images are read in less time than it takes to wake a thread
_PAGE = {'/': ('page.html', 'text/html'), '/page.css': ('page.css', 'text/css'), '/page.js': ('page.js', 'text/javascript')}


class Service:
    """Answers requests with a few networks.

    Attributes:
      asgi: the application.
      stopping: whether the server is stopping, and so is no longer healthy.
    """

    def __init__(self, networks: Sequence[Network], limits: Limits, *, wait: float, token: bool):
        """Makes the application, which starts to compute when its lifespan starts.

        Args:
          networks: at least one; the first is the default.
          wait: largest number of seconds that a request waits for other requests to share its batch.
          token: whether requests need a token, which `Guard` checks.
        """
        self._networks = {network.name: network for network in networks}
        self._limits, self._wait = limits, wait
        self._admission = Admission(limits)
        self._unread = 0  # requests whose images have not reached a batcher yet
        self._batchers: dict[Program, Batcher] = {}
        self._threads = ThreadPoolExecutor(cores(), 'decode')
        self._began = time.monotonic()
        self._description = openapi.describe([*self._networks], limits, token=token)
        self.stopping = False
        routes = [
            Route('/v1/models', self._models),
            Route('/v1/predict', self._predict, methods=['POST']),
            Route('/v1/explain', self._explain, methods=['POST']),
            Route('/healthz', self._health),
            Route('/openapi.json', self._openapi),
            *(Route(path, _file(*of)) for path, of in _PAGE.items()),
        ]
        handlers: dict[int | type[Exception], Callable[..., Awaitable[Response]]] = {
            RequestError: _refuse,
            HTTPException: _refuse_path,
            Exception: _fail,
        }
        self.asgi = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        # One thread computes for all programs, because XLA uses all cores for each program.
        with self._threads, ThreadPoolExecutor(1, 'compute') as thread:
            programs = [program for each in self._networks.values() for program in (each.probabilities, each.maps) if program]
            self._batchers = {each: Batcher(each, self._wait, lambda: self._unread > 0, thread) for each in programs}
            tasks = [asyncio.create_task(batcher.work()) for batcher in self._batchers.values()]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _models(self, request: Request) -> Response:
        limits = {'bytes': self._limits.body_bytes, 'pixels': self._limits.pixels, 'images': self._limits.images}
        return Answer({'models': [_describe(network) for network in self._networks.values()], 'limits': limits})

    async def _health(self, request: Request) -> Response:
        admission = self._admission
        health = {
            'status': 'stopping' if self.stopping else 'ok',
            'in_progress': admission.images,
            'answered': admission.answered,
            'refused': admission.refused,
            'seconds': round(time.monotonic() - self._began, 3),
        }
        return Answer(health, 503 if self.stopping else 200)

    async def _openapi(self, request: Request) -> Response:
        return Answer(self._description)

    async def _predict(self, request: Request) -> Response:
        with self._admission.request() as admitted, _errors(self._limits):
            question, network, images, deadline = await self._read(request, admitted)
            async with asyncio.timeout_at(deadline):
                answers = await self._compute(network.probabilities, [(image,) for image in images])
            predictions = [_prediction(network, probabilities, question.top) for probabilities in answers]
            return Answer({'model': network.name, 'predictions': predictions})

    async def _explain(self, request: Request) -> Response:
        with self._admission.request() as admitted, _errors(self._limits):
            question, network, images, deadline = await self._read(request, admitted)
            if network.maps is None:
                raise RequestError(
                    501, f'{network.name} cannot be explained, as exported programs cannot; expected a run folder or weights'
                )
            chosen = question.class_name
            if chosen is not None and chosen not in network.class_names:
                near = did_you_mean(chosen[:80], network.class_names)
                raise RequestError(422, f'{network.name} has no class {chosen[:80]!r}{near}')
            async with asyncio.timeout_at(deadline):
                answers = await self._compute(network.probabilities, [(image,) for image in images])
                classes = [int(p.argmax()) if chosen is None else network.class_names.index(chosen) for p in answers]
                maps = await self._compute(network.maps, list(zip(images, map(np.int32, classes), strict=True)))

            def draw() -> list[JsonDict]:
                return [
                    {
                        **_prediction(network, probabilities, question.top),
                        'explained': network.class_names[index],
                        'map': _png((255 * importance).round().astype(np.uint8)),
                        'image': _png(image),
                    }
                    for probabilities, index, importance, image in zip(answers, classes, maps, images, strict=True)
                ]

            return Answer({'model': network.name, 'predictions': await self._in_thread(draw)})

    async def _read(self, request: Request, admitted: Admitted) -> tuple[Question, Network, list[np.ndarray], float]:
        """Returns the question of a request, the network, the images in the network's form, and the deadline."""
        with self._coming():
            body = await read_body(request, self._limits, admitted)
            deadline = asyncio.get_running_loop().time() + self._limits.seconds
            async with asyncio.timeout_at(deadline):
                arguments = body, request.headers.get('content-type', ''), self._limits
                question = parse(*arguments) if len(body) < _SMALL else await self._in_thread(parse, *arguments)
                admitted.add_images(len(question.images) - 1)
                network = next(iter(self._networks.values())) if question.model is None else self._find(question.model)
                names = [f'image {number}' for number in range(1, len(question.images) + 1)]
                reading = [self._decode(network, *of) for of in zip(question.images, names, strict=True)]
                read = await asyncio.gather(*reading, return_exceptions=True)
        for image in read:
            if isinstance(image, BaseException):
                raise image
        return question, network, read, deadline  # type: ignore[return-value]

    async def _decode(self, network: Network, image: bytes, name: str) -> np.ndarray:
        if len(image) < _SMALL and self._admission.images == 1:
            with contextlib.suppress(TooManyPixelsError):
                return network.read(image, name, _SMALL)
        return await self._in_thread(network.read, image, name, self._limits.pixels)

    def _find(self, name: str) -> Network:
        if name not in self._networks:
            near = did_you_mean(name[:80], self._networks)
            raise RequestError(404, f'no model {name[:80]!r}{near}; expected one of {", ".join(self._networks)}')
        return self._networks[name]

    async def _compute(self, program: Program, items: Sequence[Item]) -> list[np.ndarray]:
        batcher = self._batchers[program]
        return await asyncio.gather(*(batcher.answer(*item) for item in items))

    def _in_thread(self, function: Callable[..., T], *arguments: object) -> 'asyncio.Future[T]':
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    @contextlib.contextmanager
    def _coming(self) -> Iterator[None]:
        self._unread += 1
        try:
            yield
        finally:
            self._unread -= 1


@contextlib.contextmanager
def _errors(limits: Limits) -> Iterator[None]:
    """Turns the errors of a request into a RequestError with their status."""
    try:
        yield
    except TooManyPixelsError as problem:
        raise RequestError(413, str(problem)) from None
    except InputFileError as problem:
        raise RequestError(422, str(problem)) from None
    except TimeoutError:
        raise RequestError(504, f'the answer took longer than {limits.seconds:g} seconds; try again later') from None
    except Exception as problem:
        if isinstance(problem, MemoryError) or is_out_of_memory(problem):
            raise RequestError(503, 'the memory is full; try again later, with fewer images') from problem
        raise


def _describe(network: Network) -> JsonDict:
    return {
        'name': network.name,
        'classes': list(network.class_names),
        'image_shape': list(network.image_shape),
        'resize': network.resize,
        'crop': network.crop,
        'explains': network.maps is not None,
        'facts': dict(network.facts),
    }


def _prediction(network: Network, probabilities: np.ndarray, top: int) -> JsonDict:
    order = np.argsort(-probabilities, kind='stable')[:top]
    classes = [{'class': network.class_names[i], 'probability': _rounded(probabilities[i])} for i in order]
    measured = network.measured.of(float(probabilities[order[0]])) if network.measured else None
    rounded = measured and {
        'low': _rounded(measured.low),
        'high': _rounded(measured.high),
        'count': measured.count,
        'accuracy': _rounded(measured.accuracy),
    }
    return {**classes[0], 'top': classes, 'measured': rounded}


def _rounded(value: float) -> float:
    return float(f'{min(float(value), 1.0):.6g}')  # float32 has no more digits


def _png(pixels: np.ndarray) -> str:
    """Returns a PNG in base64 of uint8 `[height, width]` or `[height, width, channels]`."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = resources.files('resnet_jax.serve').joinpath('page', name).read_bytes()
    return lambda request: Response(content, media_type=kind)


async def _refuse(request: Request, problem: RequestError) -> Response:
    return error(problem.status, str(problem))


async def _refuse_path(request: Request, problem: HTTPException) -> Response:
    return error(problem.status_code, f'{problem.detail}: {request.method} {request.url.path[:80]}; see /openapi.json')


async def _fail(request: Request, problem: Exception) -> Response:
    return error(500, 'the server has a bug, which its log shows')
