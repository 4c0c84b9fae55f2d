"""Refuses requests from other hosts and sites, and restricts the use of the answers in a browser."""

import hmac
import json
import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    'content-security-policy': _POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'permissions-policy': 'camera=(self), geolocation=(), microphone=()',
    'cache-control': 'no-store',
}


class Answer(JSONResponse):
    """An answer in JSON; in names that are not Unicode, such as Linux file names, bytes are escaped like \\ud800."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
        return text.encode('utf-8', 'backslashreplace')


def error(status: int, message: str) -> Answer:
    """Returns the answer to a request that is refused."""
    headers = {401: {'www-authenticate': 'Bearer'}, 429: {'retry-after': '1'}, 503: {'retry-after': '1'}}.get(status, {})
    if status in (408, 413):  # the rest of the body is not read
        headers = {'connection': 'close'}
    return Answer({'error': {'status': status, 'message': message}}, status, headers)


class Guard:
    """ASGI middleware: refuses other hosts, other sites and wrong tokens, and adds headers to every answer.

    Attributes:
      stopping: whether the server is stopping; every answer then ends its connection.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str]):
        """Wraps an application.

        Args:
          token: the token that requests to /v1 must have, as `Authorization: Bearer TOKEN`; None for no token.
          hosts: names, without port, by which the server may be called; () for any. With (), a page of any site could reach a
            server on a loopback address through its own host name, if that resolves to this address (DNS rebinding).
        """
        self._app, self._token, self._hosts = app, token, hosts
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if self.stopping:
                    headers['connection'] = 'close'
            await send(message)

        refused = self._refuse(scope['path'], Headers(scope=scope))
        await (refused or self._app)(scope, receive, send_with_headers)

    def _refuse(self, path: str, headers: Headers) -> Answer | None:
        host = re.sub(r':\d+$', '', headers.get('host', ''))
        if self._hosts and host.lower() not in self._hosts:
            return error(421, f'this server is not called {host[:80]!r}; expected {", ".join(sorted(self._hosts))}')
        if not path.startswith('/v1/'):
            return None
        if headers.get('sec-fetch-site', 'same-origin') not in ('same-origin', 'none'):
            return error(403, 'the request comes from a page of another site; expected one of this server')
        if self._token is not None:
            kind, _, given = headers.get('authorization', '').partition(' ')
            if kind.lower() != 'bearer' or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
                return error(401, 'the token is missing or wrong; expected the header Authorization: Bearer TOKEN')
        return None
