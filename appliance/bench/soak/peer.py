"""One raw WebSocket of a soak: says whatever it likes, checks whatever it hears, leaves as it pleases."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec import Struct

from appliance.bench.soak.checking import Checker, Findings
from appliance.client.address import Address
from appliance.protocol.websocket import (
    Cancel,
    Chat,
    ChatParams,
    Delta,
    Done,
    Error,
    Hello,
    Ping,
    Pong,
    ServerMessage,
    Started,
    encode,
)
from appliance.types import Message

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0  # for what a server answers at once
CLOSE_TIMEOUT_S = 2.0
LARGEST_FRAME = 16 << 20  # that is taken from a server


class Refused(Exception):
    """The server did not let a client in; `code` is the HTTP status, or why there was none."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Gone(Exception):
    """The server has ended the connection; `code` is that of its close frame."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Door(Struct, frozen=True):
    """How to come in."""

    address: Address
    local_address: str | None = None
    """Whom the server sees; on loopback each address is a client of its own."""
    receive_buffer_bytes: int | None = None
    """Of the kernel; small for a slow reader."""


class Peer:
    """A connection that has read its hello."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, checker: Checker, hello: Hello) -> None:
        self.ws = ws
        self.hello = hello
        self.checker = checker

    async def chat(self, request_id: str, messages: list[Message], max_tokens: int, deadline_s: float) -> None:
        """Send a request; what comes of it is checked from now on. Raises Gone."""
        self.checker.began(request_id, max_tokens)
        params = ChatParams(max_tokens=max_tokens, temperature=0)
        await self.send(encode(Chat(request_id, messages, params, deadline_s)))

    async def cancel(self, request_id: str) -> None:
        """Ask for the end of a request. Raises Gone."""
        self.checker.cancelled(request_id)
        await self.send(encode(Cancel(request_id)))

    async def send(self, text: str) -> None:
        """Send a frame of whatever text. Raises Gone."""
        try:
            await self.ws.send_str(text)
        except (aiohttp.ClientError, ConnectionError):
            raise Gone(self.ws.close_code) from None

    async def receive(self, timeout_s: float) -> ServerMessage | None:
        """The next message; None for one of an unknown type. Raises Gone, TimeoutError."""
        async with asyncio.timeout(timeout_s):
            frame = await self.ws.receive()
        if frame.type is aiohttp.WSMsgType.TEXT:
            return self.checker.feed(frame.data)
        raise Gone(self.ws.close_code)

    async def until_started(self, request_id: str, timeout_s: float) -> bool:
        """Wait for `started`; False where the request ended before. Raises Gone, TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self.checker.live(request_id):
                message = await self.receive(timeout_s)
                if isinstance(message, Started) and message.id == request_id:
                    return True
        return False

    async def until_deltas(self, request_id: str, count: int, timeout_s: float) -> bool:
        """Wait for `count` deltas; False where the request ended before. Raises Gone, TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while count and self.checker.live(request_id):
                message = await self.receive(timeout_s)
                count -= isinstance(message, Delta) and message.id == request_id
        return not count

    async def until_end(self, request_id: str, timeout_s: float) -> Done | Error:
        """The terminal event of a live request. Raises Gone, TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                message = await self.receive(timeout_s)
                if isinstance(message, Done | Error) and message.id == request_id:
                    return message

    async def until_error(self) -> Error:
        """The next error of whatever id. Raises Gone, TimeoutError."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                message = await self.receive(ANSWER_TIMEOUT_S)
                if isinstance(message, Error):
                    return message

    async def ping(self) -> None:
        """See that the connection still answers. Raises Gone, TimeoutError."""
        await self.send(encode(Ping("still there")))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not isinstance(await self.receive(ANSWER_TIMEOUT_S), Pong):
                pass

    def reset_on_close(self) -> None:
        """Have the kernel send a RST, as of a client that lost power."""
        sock: socket.socket | None = self.ws.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def close(self) -> None:
        """Leave politely."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.ws.close()


@asynccontextmanager
async def open_peer(door: Door, findings: Findings, who: str) -> AsyncIterator[Peer]:
    """A peer with a connection of its own; leaving the block drops it, without a close frame where none was sent.

    Raises Refused where the server does not let it in, Gone where it is closed before the hello, TimeoutError.
    """
    connector = aiohttp.TCPConnector(
        ssl=True if door.address.tls is None else door.address.tls,
        force_close=True,
        local_addr=(door.local_address, 0) if door.local_address is not None else None,
        socket_factory=_small_buffers(door.receive_buffer_bytes) if door.receive_buffer_bytes else None,
    )
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                ws = await session.ws_connect(door.address.url, max_msg_size=LARGEST_FRAME)
        except aiohttp.WSServerHandshakeError as error:
            raise Refused(f"http_{error.status}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Refused(type(error).__name__) from None
        checker = Checker(findings, who)
        findings.counts["connections"] += 1
        peer = Peer(ws, checker, await _hello(ws, checker, findings, who))
        yield peer


async def _hello(ws: aiohttp.ClientWebSocketResponse, checker: Checker, findings: Findings, who: str) -> Hello:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        frame = await ws.receive()
    if frame.type is aiohttp.WSMsgType.TEXT:
        message = checker.feed(frame.data)
        if isinstance(message, Hello):
            return message
    else:
        findings.violation(f"{who}: closed with {ws.close_code} before the hello")
    raise Gone(ws.close_code)


def _small_buffers(size_bytes: int) -> Any:
    def make(info: Any) -> socket.socket:
        sock = socket.socket(info[0], info[1], info[2])
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
        return sock

    return make
