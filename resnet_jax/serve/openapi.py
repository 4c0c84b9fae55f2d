"""The description of the API: OpenAPI 3.1."""

from collections.abc import Sequence

import resnet_jax
from resnet_jax.config import RESIZE
from resnet_jax.serve.limits import Limits
from resnet_jax.typing import JsonDict


def describe(names: Sequence[str], limits: Limits, *, token: bool) -> JsonDict:
    """Returns the OpenAPI description of a server.

    Args:
      names: names of the networks; the first is the default.
      token: whether requests need a token.
    """
    return {
        'openapi': '3.1.0',
        'info': {
            'title': 'resnet_jax',
            'version': resnet_jax.__version__,
            'description': 'Classifies images with trained networks, and says what in them speaks for a class.',
        },
        'paths': {
            '/v1/models': {'get': _operation('models', 'The networks', 'Models', _REFUSED)},
            '/v1/predict': {'post': _asking('predict', 'Classifies images', 'Predictions', limits, 'model', 'top')},
            '/v1/explain': {
                'post': _asking('explain', 'Classifies and explains images', 'Explanations', limits, 'model', 'top', 'class')
            },
            '/healthz': {'get': _operation('healthz', 'Whether the server answers', 'Health', {'503': 'it is stopping'})},
        },
        'components': {
            'schemas': {**_SCHEMAS, 'ModelName': {'type': 'string', 'enum': list(names), 'default': names[0]}},
            **({'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}} if token else {}),
        },
        **({'security': [{'token': []}]} if token else {}),
    }


_REFUSED = {'401': 'the token is missing or wrong', '403': 'a page of another site asks', '421': 'the host is another'}


def _asking(name: str, summary: str, answer: str, limits: Limits, *fields: str) -> JsonDict:
    refused = {
        '400': 'the client has gone before the end of the body, or what comes is not HTTP',
        **_REFUSED,
        '404': 'no network has this name',
        '408': f'the body took longer than {limits.seconds:g} seconds',
        '413': (
            f'the body has more than {limits.body_bytes:,} bytes or {limits.images} images, or an image more than '
            f'{limits.pixels:,} pixels'
        ),
        '415': 'the content is neither JSON nor a form',
        '422': 'the content cannot be read: JSON, the form, base64, an image, a field',
        '429': f'too much is in progress: {limits.queue} images, or as many bytes as 8 of the largest bodies',
        '500': 'a bug of the server',
        **({'501': 'the network is exported and cannot be explained'} if name == 'explain' else {}),
        '503': f'the device has no memory left, or {limits.connections} connections are open',
        '504': f'the answer took longer than {limits.seconds:g} seconds',
    }
    operation = _operation(name, summary, answer, refused)
    properties = {field: _FIELDS[field] for field in fields}
    image = {
        'type': 'string',
        'contentEncoding': 'base64',
        'description': 'an image file: PNG, JPEG, GIF, BMP, TIFF, WEBP, ...',
    }
    images = {'type': 'array', 'minItems': 1, 'maxItems': limits.images}
    file = {'type': 'string', 'contentMediaType': 'image/*'}
    forms = {
        'application/json': {'images': {**images, 'items': image}},
        'multipart/form-data': {'image': {**images, 'items': file}},
    }
    content = {
        kind: {
            'schema': {
                'type': 'object',
                'properties': {**files, **properties},
                'required': [*files],
                'additionalProperties': False,
            }
        }
        for kind, files in forms.items()
    }
    return {**operation, 'requestBody': {'required': True, 'content': content}}


def _operation(name: str, summary: str, answer: str, refused: dict[str, str]) -> JsonDict:
    def content(schema: str) -> JsonDict:
        return {'application/json': {'schema': {'$ref': f'#/components/schemas/{schema}'}}}

    responses: JsonDict = {'200': {'description': summary, 'content': content(answer)}}
    for status, text in refused.items():
        # uvicorn itself answers 400 and 503, in plain text.
        responses[status] = {'description': text, 'content': content('Error') | {'text/plain': {}}}
    return {'operationId': name, 'summary': summary, 'responses': responses}


def _object(**properties: JsonDict) -> JsonDict:
    return {'type': 'object', 'properties': properties, 'required': [*properties], 'additionalProperties': False}


def _array(items: JsonDict) -> JsonDict:
    return {'type': 'array', 'items': items}


def _ref(name: str) -> JsonDict:
    return {'$ref': f'#/components/schemas/{name}'}


_TEXT: JsonDict = {'type': 'string'}
_COUNT: JsonDict = {'type': 'integer', 'minimum': 0}
_SHARE: JsonDict = {'type': 'number', 'minimum': 0, 'maximum': 1}
_PNG: JsonDict = {'type': 'string', 'contentEncoding': 'base64', 'contentMediaType': 'image/png'}
_FIELDS: JsonDict = {
    'model': _ref('ModelName'),
    'top': {'type': 'integer', 'minimum': 1, 'default': 5, 'description': 'how many classes to name'},
    'class': {**_TEXT, 'description': 'the class to explain; by default the most probable one'},
}
_PREDICTION: JsonDict = {
    'class': _TEXT,
    'probability': _SHARE,
    'top': _array(_object(**{'class': _TEXT, 'probability': _SHARE})),
    'measured': {
        'description': 'how many test images got an answer this sure, and what share of these answers was right',
        'anyOf': [_object(low=_SHARE, high=_SHARE, count=_COUNT, accuracy=_SHARE), {'type': 'null'}],
    },
}
_SCHEMAS: JsonDict = {
    'Error': _object(error=_object(status=_COUNT, message=_TEXT)),
    'Health': _object(
        status={'enum': ['ok', 'stopping']}, in_progress=_COUNT, answered=_COUNT, refused=_COUNT, seconds={'type': 'number'}
    ),
    'Models': _object(models=_array(_ref('Model')), limits=_object(bytes=_COUNT, pixels=_COUNT, images=_COUNT)),
    'Model': _object(
        name=_TEXT,
        classes=_array(_TEXT),
        image_shape=_array(_COUNT),
        resize={'enum': list(RESIZE)},
        crop=_SHARE,
        explains={'type': 'boolean'},
        facts={'type': 'object', 'additionalProperties': _TEXT},
    ),
    'Prediction': _object(**_PREDICTION),
    'Predictions': _object(model=_TEXT, predictions=_array(_ref('Prediction'))),
    'Explanation': _object(
        **_PREDICTION,
        explained=_TEXT,
        map={**_PNG, 'description': "Grad-CAM's map, grey: white is what speaks most for the class"},
        image={**_PNG, 'description': 'the image as the network takes it'},
    ),
    'Explanations': _object(model=_TEXT, predictions=_array(_ref('Explanation'))),
}
