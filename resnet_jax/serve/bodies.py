"""Reads the bodies of requests: JSON with images in base64, or a form (multipart/form-data) with files."""

import asyncio
import base64
import binascii
import dataclasses
import json
import re

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from resnet_jax.errors import did_you_mean
from resnet_jax.serve.limits import Admitted, Limits, RequestError

_FIELDS = ('model', 'top', 'class')
_JSON, _FORM = 'application/json', 'multipart/form-data'
_DRAINED = 4  # a body that is too large is read and discarded up to this many times the limit
_LONGEST_FIELD = 1000  # bytes


@dataclasses.dataclass(frozen=True)
class Question:
    """The question of a request.

    Attributes:
      images: encoded image files.
      model: name of the network; None for the first one.
      top: number of classes to name.
      class_name: the class to explain; None for the most probable one.
    """

    images: tuple[bytes, ...]
    model: str | None = None
    top: int = 5
    class_name: str | None = None


async def read_body(request: Request, limits: Limits, admitted: Admitted) -> bytes:
    """Returns the body of a request.

    Raises:
      RequestError: 413, the body is too large; 429, too much is in progress; 408, it is too slow; 400, the client has gone.
    """
    parts: list[bytes] = []
    size = 0
    declared = int(request.headers.get('content-length', 0))  # h11 has checked that this is a number
    refused: RequestError | None = None
    if declared > limits.body_bytes:
        refused = RequestError(413, f'the body is too large; expected at most {limits.body_bytes:,} bytes')
        if 'expect' in request.headers or declared > _DRAINED * limits.body_bytes:
            raise refused
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if not refused and size > limits.body_bytes:
                    refused = RequestError(413, f'the body is too large; expected at most {limits.body_bytes:,} bytes')
                if refused:
                    # If its connection were closed while it sends, the client would see a broken connection, not the reason.
                    parts.clear()
                    if size > _DRAINED * limits.body_bytes:
                        break
                    continue
                try:
                    admitted.add_bytes(len(part))
                except RequestError as error:
                    refused = error
                parts.append(part)
    except TimeoutError:
        raise refused or RequestError(408, f'the body took longer than {limits.seconds:g} seconds; send it faster') from None
    except ClientDisconnect:
        raise RequestError(400, 'the client has gone before the end of the body') from None
    if refused:
        raise refused
    return b''.join(parts)


def parse(body: bytes, content_type: str, limits: Limits) -> Question:
    """Returns the question of a request; the time grows with the size of its body.

    Raises:
      RequestError: 415, the content has another type; 413, there are too many images; 422, the content has another form.
    """
    kind, options = parse_options_header(content_type)
    if kind == _JSON.encode():
        images, fields = _parse_json(body, limits)
    elif kind == _FORM.encode():
        images, fields = _parse_form(body, options.get(b'boundary', b''), limits)
    else:
        raise RequestError(415, f'the content is {content_type[:80]!r}; expected {_JSON} or {_FORM}')
    if not images:
        raise RequestError(422, 'there is no image; expected at least one')
    top = fields.get('top', 5)
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise RequestError(422, f'top is {str(top)[:80]!r}; expected a whole number above 0')
    for name in ('model', 'class'):
        if not isinstance(fields.get(name, ''), str):
            raise RequestError(422, f'{name} is {str(fields[name])[:80]!r}; expected a name')
    return Question(tuple(images), fields.get('model'), top, fields.get('class'))  # type: ignore[arg-type]


def _parse_json(body: bytes, limits: Limits) -> tuple[list[bytes], dict[str, object]]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(422, f'the body cannot be read as JSON: {str(error)[:200]}') from None
    if not isinstance(content, dict):
        raise RequestError(422, f'the body is a JSON {type(content).__name__}; expected an object with images')
    for name in content:
        _check_field(name, ('images', *_FIELDS))
    texts = content.pop('images', [])
    if not isinstance(texts, list):
        raise RequestError(422, 'images is not a list; expected a list of image files in base64')
    _check_count(len(texts), limits)
    images = []
    for number, text in enumerate(texts):
        try:
            # The command base64 writes lines.
            images.append(base64.b64decode(re.sub(r'\s', '', text), validate=True))
        except (TypeError, ValueError, binascii.Error):
            raise RequestError(422, f'images[{number}] is not base64; expected an image file in base64') from None
    return images, content


def _parse_form(body: bytes, boundary: bytes, limits: Limits) -> tuple[list[bytes], dict[str, object]]:
    images: list[bytes] = []
    fields: dict[str, object] = {}
    count = 0
    ended = False

    def on_file(file: File) -> None:
        _check_count(len(images) + 1, limits)
        file.file_object.seek(0)
        images.append(file.file_object.read())

    def on_field(field: Field) -> None:
        nonlocal count
        count += 1
        if count > len(_FIELDS):
            raise RequestError(422, f'the form has more than {len(_FIELDS)} fields; expected {", ".join(_FIELDS)} and files')
        name = (field.field_name or b'').decode(errors='replace')
        _check_field(name, _FIELDS)
        text = (field.value or b'')[:_LONGEST_FIELD].decode(errors='replace')
        fields[name] = int(text) if name == 'top' and re.fullmatch(r'\d{1,9}', text) else text

    def on_end() -> None:
        nonlocal ended
        ended = True

    try:
        config = {'MAX_MEMORY_FILE_SIZE': limits.body_bytes, 'UPLOAD_ERROR_ON_BAD_CTE': True}
        parser = FormParser(_FORM, on_field, on_file, on_end, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RequestError(422, f'the form cannot be read: {str(error)[:200]}') from None
    if not ended:
        raise RequestError(422, 'the form ends too early; expected the boundary that ends it')
    return images, fields


def _check_field(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise RequestError(
            422, f'unknown field {name[:80]!r}{did_you_mean(name[:80], known)}; expected {", ".join(known)} (files are images)'
        )


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.images:
        raise RequestError(413, f'there are more than {limits.images} images; expected fewer in a request')
