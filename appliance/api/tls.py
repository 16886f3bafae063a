"""TLS on connections that were accepted: handshakes, counted and bounded. Knows no certificate file and no routes.

asyncio would do them itself, where a server is given a context: out of sight until they are done, so that nobody could
count those who never finish, and with one certificate for ever.
"""

import asyncio
import contextlib
import logging
import ssl
import traceback
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from weakref import WeakKeyDictionary

from appliance.api.clients import IPV4_MAPPED
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0  # on top of it the first request has its own time
GOODBYE_S = 5.0  # for a peer to take what is left and to say that it ends too
BUFFER_BYTES = 1 << 16  # of each connection; asyncio's own is four times that, and a record of TLS a quarter


class Handshakes:
    """Makes a protocol for each TCP connection that does the handshake, and then has another take over."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        make: Callable[[], asyncio.Protocol],
        has_room: Callable[[int], bool],
        secured: "SecuredConnections",
    ) -> None:
        """`context`: for the next handshake. `make`: the protocol of what is served.

        `has_room`: whether there may be one connection more than those that were made, and as many as it is told.
        """
        self._context = context
        self._make = make
        self._has_room = has_room
        self._secured = secured
        self._under_way: set[asyncio.Task[None]] = set()
        SSLProtocol.max_size = BUFFER_BYTES  # of this process: nobody else in it speaks TLS

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for one connection."""
        return _Accepted(self._begin)

    def close(self) -> None:
        """Give up those that are under way."""
        for task in self._under_way:
            task.cancel()

    def _begin(self, transport: asyncio.Transport) -> None:
        if not self._has_room(len(self._under_way)):
            transport.abort()
            return
        task = asyncio.create_task(self._shake_hands(transport))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        between = Secured(transport)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                between,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError as error:  # SSLError among it: no TLS, too old a version, a certificate that the peer refuses
            # The frames have the error, and that has the frames: with all buffers until a collection, which is seldom.
            traceback.clear_frames(error.__traceback__)
            host, *_ = transport.get_extra_info("peername") or ("unknown",)
            log.debug("no TLS came about", extra=fields(client=host.removeprefix(IPV4_MAPPED), reason=str(error)))
            return
        if secured is None or between.ended:  # None: asyncio's answer where the peer went in the same turn of the loop
            return  # nobody could be answered, and aiohttp does not expect an end before its first turn
        self._secured[secured] = between
        secured.set_write_buffer_limits(BUFFER_BYTES)  # asyncio's own would hold eight times what it does without TLS
        between.attach(self._make(), secured)


class _Accepted(asyncio.Protocol):
    """Tells of the connection, and lets nothing be read before TLS does it."""

    def __init__(self, begin: Callable[[asyncio.Transport], None]) -> None:
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.pause_reading()
            self._begin(transport)


class Secured(asyncio.Protocol):
    """A connection with TLS: between that and what is served, for what asyncio leaves open.

    What comes together with the last word of the handshake is there a turn of the loop before anybody can take it. And
    a peer that says nothing more can't be answered either: asyncio drops what is written then, and tells of the end
    only when the peer has taken all that was written before, which may be never. Its transport knows neither what the
    one below has not sent yet, nor that that one is gone, and can't be aborted once it was closed twice.
    """

    def __init__(self, below: asyncio.Transport) -> None:
        self.ended = False
        """Whether the peer says nothing more, or is gone."""
        self._lost = False
        self._below = below
        self._protocol: asyncio.Protocol | None = None
        self._early = bytearray()

    @property
    def gone(self) -> bool:
        """Whether what is written now goes nowhere."""
        return self.ended or self._below.is_closing()

    def unsent_bytes(self, transport: asyncio.Transport) -> int:
        """What the kernel has not taken yet of what was written to `transport`, the one that handlers see."""
        try:
            of_tls = transport.get_write_buffer_size()
        except AttributeError:  # asyncio's, of one that was closed twice
            of_tls = 0
        return of_tls + self._below.get_write_buffer_size()

    def abort(self) -> None:
        """End it now; nothing where it has ended by itself, which asyncio answers with an AttributeError."""
        with contextlib.suppress(AttributeError):
            self._below.abort()

    def attach(self, protocol: asyncio.Protocol, transport: asyncio.Transport) -> None:
        """Let `protocol` have the connection from now on, and what has come already."""
        self._protocol = protocol
        protocol.connection_made(transport)
        if self._early:
            protocol.data_received(bytes(self._early))
            self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self._protocol is None:
            self._early += data
        elif not self._lost:
            self._protocol.data_received(data)

    def eof_received(self) -> None:
        self.ended = True
        loop = asyncio.get_running_loop()
        loop.call_soon(self.connection_lost, None)
        loop.call_later(GOODBYE_S, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost:
            self.ended = self._lost = True
            if self._protocol is not None:
                self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._protocol is not None and not self._lost:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None and not self._lost:
            self._protocol.resume_writing()


SecuredConnections = WeakKeyDictionary[asyncio.BaseTransport, Secured]
"""By the transport that handlers see."""
