"""A minimal server for comparison: onnxruntime, one image after the other, without batches and limits.

`python -m resnet_jax.benchmark.onnx_server FOLDER` serves model.onnx and config.json of an exported folder at /v1/predict, and
prints its port. It takes and returns the same JSON as the serve command, and reads images in the same way.
"""

import base64
import json
import socket
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resnet_jax.data.images import read_image


def create_app(folder: Path) -> Starlette:
    """Returns the application."""
    config = json.loads((folder / 'config.json').read_text())
    session = onnxruntime.InferenceSession(folder / 'model.onnx', providers=['CPUExecutionProvider'])
    how = config['resize'], config['crop'], config['interpolation']

    def classify(text: str) -> dict[str, object]:
        image = read_image(base64.b64decode(text), config['image_shape'], *how)
        (probabilities,) = session.run(['probabilities'], {'images': image[None]})[0]
        top = [
            {'class': config['class_names'][i], 'probability': float(probabilities[i])} for i in np.argsort(-probabilities)[:5]
        ]
        return {**top[0], 'top': top, 'measured': None}

    async def predict(request: Request) -> JSONResponse:
        texts = (await request.json())['images']
        return JSONResponse({'model': config.get('model', ''), 'predictions': [classify(text) for text in texts]})

    return Starlette(routes=[Route('/v1/predict', predict, methods=['POST'])])


if __name__ == '__main__':
    # Not socket.create_server: asyncio would leave Nagle's algorithm on, and each answer would wait 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(('127.0.0.1', 0))
    bound.listen(1000)  # before the port is printed
    print(f'Serving at http://127.0.0.1:{bound.getsockname()[1]}', flush=True)
    server_config = uvicorn.Config(
        create_app(Path(sys.argv[1])), log_level='error', access_log=False, loop='asyncio', http='h11'
    )
    uvicorn.Server(server_config).run(sockets=[bound])
