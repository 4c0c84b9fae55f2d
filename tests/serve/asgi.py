"""Asks an ASGI application directly, without a socket."""

import asyncio
import base64
import contextlib
import io
import json

import numpy as np
from PIL import Image

from resnet_jax.serve.app import Service
from resnet_jax.serve.limits import Limits
from resnet_jax.serve.network import Network
from resnet_jax.serve.program import Program

JSON = 'application/json'


def png(value=0, size=(4, 4), mode='L'):
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, 'PNG')
    return file.getvalue()


def with_images(*images, **fields):
    return json.dumps({'images': [base64.b64encode(image).decode() for image in images], **fields}).encode()


def form(*images, **fields):
    """Returns a form and its content type."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    parts += [head + image + b'\r\n' for image in images]
    return b''.join(parts) + b'--x--\r\n', 'multipart/form-data; boundary=x'


class Counting:
    """A network of grey images of 4 x 4 pixels and three classes, that is sure of class 1 as an image is bright.

    Attributes:
      calls: the number of images in each batch of probabilities, without padding.
      gate: what each batch waits for.
      error: what a batch raises; None for nothing.
    """

    def __init__(self, sizes=(1, 4), maps=True, measured=None):
        self.calls, self.error, self.gate = [], None, None
        self.measuring = True
        runs, maps = dict.fromkeys(sizes, self.run), dict.fromkeys(sizes, self.explain) if maps else None
        self.network = Network(
            'counting',
            ('none', 'bright', 'other'),
            (4, 4, 1),
            Program(runs, lambda size: [np.ones((size, 4, 4, 1), np.uint8)]),
            Program(maps, lambda size: [np.ones((size, 4, 4, 1), np.uint8), np.zeros(size, np.int32)]) if maps else None,
            measured,
        )
        self.measuring = False
        self.network.probabilities.seconds = dict.fromkeys(sizes, 1.0)  # a batch takes as long as an image

    def run(self, images):
        if not self.measuring:
            self.calls.append(int((images.max((1, 2, 3)) > 0).sum()))
            if self.gate:
                assert self.gate.wait(60)
            if self.error:
                raise self.error
        bright = images.mean((1, 2, 3), dtype=np.float32) / 255
        return np.stack([(1 - bright) * 0.9, bright, (1 - bright) * 0.1], axis=1)

    def explain(self, images, classes):
        return images[..., 0] / np.float32(255) * (classes[:, None, None] == 1)


@contextlib.asynccontextmanager
async def serving(*networks, wait=0.0, **limits):
    """Yields a function that asks the application of these networks: it returns the status and the JSON of the answer.

    Its `parts` is an asyncio.Queue of the messages that a server would pass on; by default the whole body at once.
    """
    service = Service(networks, Limits(**limits), wait=wait, token=False)

    async def ask(path, body=b'', kind=JSON, method='POST', parts=None):
        sent = []
        if parts is None:
            parts = asyncio.Queue()
            parts.put_nowait({'type': 'http.request', 'body': body, 'more_body': False})

        async def send(message):
            sent.append(message)

        headers = [(b'content-type', kind.encode())]
        scope = {'type': 'http', 'method': method, 'path': path, 'headers': headers, 'query_string': b'', 'http_version': '1.1'}
        scope |= {'scheme': 'http', 'server': ('127.0.0.1', 80), 'client': ('127.0.0.1', 1), 'root_path': '', 'raw_path': b''}
        with contextlib.suppress(*([] if method != 'POST' else [ZeroDivisionError])):  # which a test has a network raise
            await service.asgi(scope, parts.get, send)
        return sent[0]['status'], json.loads(b''.join(message.get('body', b'') for message in sent[1:]))

    async with service.asgi.router.lifespan_context(service.asgi):
        ask.service = service
        yield ask
