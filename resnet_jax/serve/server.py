"""Runs the server: its sockets, its signals and its shutdown."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnet_jax.errors import ConfigError, ResourceError
from resnet_jax.runtime.streams import tell, tell_at_once
from resnet_jax.serve.app import Service
from resnet_jax.serve.guard import Guard
from resnet_jax.serve.limits import Limits

_HEAD_SECONDS = 10.0  # time for the head of a request
_IDLE_SECONDS = 30  # time until a connection without requests is closed
_LAST_SECONDS = 0.3  # time for requests on open connections when the server stops
_LOCAL = ('localhost', '127.0.0.1', '[::1]')  # names of this machine
_GRACE_SECONDS = 5.0  # time after the limit of a request; by then it is answered


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == 'localhost'


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound but does not listen: a taken port is then noticed before networks are loaded.

    Raises:
      ConfigError: there is no such host, or it is a broadcast or multicast address.
      ResourceError: the port is taken, or may not be used.
    """
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f'host {host!r} is not known here ({error}); expected an address of this machine, as 127.0.0.1'
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        if _is_of_many(bound):
            bound.close()
            raise ConfigError(
                f'host {host!r} is an address of many machines; expected an address of this machine, as 127.0.0.1'
            )
    except OSError as error:
        bound.close()
        raise ResourceError(
            f'port {port} of {host} cannot be used: {error.strerror}; choose another one, or 0 for any that is free'
        ) from None
    return bound


def _is_of_many(bound: socket.socket) -> bool:
    """Returns whether a socket has a broadcast or multicast address: Linux binds it, but no client can connect to it."""
    address = bound.getsockname()
    with socket.socket(bound.family, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
        try:
            probe.connect(address)
        except PermissionError:  # without SO_BROADCAST
            return True
        except OSError:
            return False
    return ipaddress.ip_address(address[0].partition('%')[0]).is_multicast


def serve(service: Service, bound: socket.socket, limits: Limits, token: str | None, ready: Callable[[], None]) -> None:
    """Answers requests until SIGINT, SIGTERM or SIGHUP, then the accepted requests. A second signal ends the process.

    Args:
      bound: the socket from `bind`.
      token: the token that requests need, or None.
      ready: called when connections are accepted.
    """
    host = str(bound.getsockname()[0])
    guard = Guard(service.asgi, token, (f'[{host}]' if ':' in host else host, *_LOCAL) if is_loopback(host) else ())
    logging.getLogger('python_multipart').setLevel(logging.CRITICAL)  # the answer already explains errors in a form
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    config = uvicorn.Config(
        guard,
        http=_Protocol,
        ws='none',
        loop='asyncio',
        lifespan='on',
        workers=1,
        log_config=None,
        log_level='error',
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=round(2 * limits.seconds + _GRACE_SECONDS),
    )
    _Server(config, service, guard, ready).run(sockets=[bound])


class _Server(uvicorn.Server):
    """uvicorn's server, with signals that do not end the process, and a shutdown that is announced to clients."""

    def __init__(self, config: uvicorn.Config, service: Service, guard: Guard, ready: Callable[[], None]):
        super().__init__(config)
        self._service, self._guard, self._ready = service, guard, ready
        self.number = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's handler would raise the signal again at the end, and so hide that all requests were answered.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup sets SIG_IGN
                asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # The next answer on an open connection announces its end; a request sent while we close it would be lost.
        for _ in range(round(_LAST_SECONDS / 0.02)):
            if self.server_state.connections:
                await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _stop(self, number: int) -> None:
        if self.number:
            tell_at_once(b'Stopped at once.\n')
            os._exit(128 + number)
        tell('Stopping: answers what it has accepted. Interrupt again to stop at once.')
        self.number = number
        self.should_exit = self._guard.stopping = self._service.stopping = True


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with time limits for clients that are slow on purpose.

    uvicorn itself would wait forever for the head of a request, and for clients that do not read their answer."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()  # closes when the answer has been read
        self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _expect_head(self) -> None:
        """Closes the connection after a while, unless a request is in progress."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
