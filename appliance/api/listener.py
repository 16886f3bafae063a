"""The listening sockets: how many TCP connections, and how long one may say nothing. Knows no routes."""

import asyncio
import errno
import resource
from collections.abc import Callable, Sequence
from weakref import WeakSet

from aiohttp import web

from appliance.api.activation import InheritedSocket
from appliance.errors import StartError

OWN_FILES = 40  # the event loop, a worker's pipes, /proc, and connections that are not counted yet
BACKLOG = 16  # accepted in one go: few enough to be counted before the next
SPARE_CONNECTIONS = 64  # beyond WebSockets: probes, Prometheus, people
KEEPALIVE_S = 30.0  # between requests of one connection; aiohttp's default is an hour
COUNT_AFTER_S = 0.05  # a connection is counted by aiohttp once it is made, which is soon
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FIRST_REQUEST_S = 10.0  # from connecting to a whole request; a connection that sends none is dropped


class Doorkeeper:
    """Makes a protocol for each TCP connection, and turns away those that are too many or say nothing."""

    def __init__(
        self, server: web.Server, asked: WeakSet[asyncio.BaseTransport], max_connections: Callable[[], int]
    ) -> None:
        """`asked`: the connections that have sent a request. `max_connections`: now."""
        self._server = server
        self._asked = asked
        self._max_connections = max_connections

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one connection."""
        handler = self._server()
        loop = asyncio.get_running_loop()
        loop.call_later(COUNT_AFTER_S, self._turn_away_if_too_many, handler)
        loop.call_later(FIRST_REQUEST_S, self._drop_if_silent, handler)
        return handler

    def has_room(self, more: int) -> bool:
        """Whether there may be one connection beside those that are made, and `more` that will be."""
        return len(self._server.connections) + more < self._max_connections()

    def _turn_away_if_too_many(self, handler: web.RequestHandler) -> None:
        transport = handler.transport
        # In the order of their arrival: of a burst only those beyond the bound go.
        if transport is not None and handler not in self._server.connections[: self._max_connections()]:
            if transport not in self._asked:
                transport.write(TOO_MANY)
            transport.close()

    def _drop_if_silent(self, handler: web.RequestHandler) -> None:
        transport = handler.transport
        if transport is not None and transport not in self._asked:
            transport.abort()


class Listeners:
    """The listening sockets: those that systemd handed over, else one of our own."""

    def __init__(self, inherited: Sequence[InheritedSocket] = ()) -> None:
        self.inherited = inherited
        self._servers: list[asyncio.Server] = []

    async def open(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int, scheme: str = "http") -> str:
        """Accept connections, and `make` a protocol for each; returns the base URL.

        `host` and `port` count where nothing was inherited.

        Raises StartError, with the remedy, where the address can't be had.
        """
        loop = asyncio.get_running_loop()
        for inherited in self.inherited:
            self._servers.append(await loop.create_server(make, sock=inherited, backlog=BACKLOG))
        if not self.inherited:
            try:
                self._servers.append(await loop.create_server(make, host, port, backlog=BACKLOG))
            except OSError as error:
                raise StartError(_listen_error(host, port, error)) from error
        address: tuple[str, int] = self._servers[0].sockets[0].getsockname()[:2]
        shown = address[0] if self.inherited else host
        return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{address[1]}"

    def leave_to_successor(self) -> None:
        """Accept no more where systemd keeps the sockets: who connects now waits there for the next daemon."""
        if self.inherited:
            self.close()

    def close(self) -> None:
        """Accept no more; what was inherited stays open at systemd's end."""
        for server in self._servers:
            server.close()


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each client is one, and a spawned worker needs some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def affordable_connections(wanted: int) -> int:
    """`wanted`, or what the limit of open files leaves when the daemon's own are taken off it, >= 1."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(wanted, files - OWN_FILES))


def _listen_error(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: end the program that has it, or set server.port (--port)"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: set server.port (--port) to 1024 or above"
    return f"can't listen on {host} port {port} (server.host, server.port): {error.strerror or error}"
