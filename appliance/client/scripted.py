"""A WebSocket server that does what a test tells it to, for those who write clients. Knows no model and no queue.

async with open_scripted_server() as server, connect(server.url) as client:
    peer = await server.accept()
    async with client.stream([Message("user", "hi")]) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "hello"), done(chat.id))
        assert [delta async for delta in answer] == ["hello"]
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import WSMsgType, web

from appliance.protocol.websocket import (
    Chat,
    ClientMessage,
    Delta,
    Done,
    Hello,
    HelloModel,
    Limits,
    ServerMessage,
    Started,
    decode_client_message,
    encode,
)
from appliance.types import FinishReason, Timings, Usage

WAIT_S = 20.0  # for what the other side is about to do; a bound for a test that fails, never reached by one that passes

HELLO = Hello(
    server="appliance/scripted",
    model=HelloModel(id="scripted", context_tokens=2048),
    limits=Limits(max_prompt_tokens=2047, max_tokens=1024, max_message_bytes=65_536, max_live_requests=16),
    session="scripted-session",
)

T = TypeVar("T", bound=ClientMessage)


def done(request_id: str, finish_reason: FinishReason = "stop", *, completion_tokens: int = 2) -> Done:
    """A terminal event with plausible numbers: TTFT 118 ms, 25 ms a token."""
    return Done(
        id=request_id,
        finish_reason=finish_reason,
        model="scripted",
        usage=Usage(prompt_tokens=31, completion_tokens=completion_tokens),
        timings=Timings(queue_ms=0.4, ttft_ms=118.0, tpot_ms=25.0, total_ms=143.0),
    )


class Peer:
    """One client, seen from the server."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self.arrived: asyncio.Queue[ClientMessage | None] = asyncio.Queue()
        """What the client has sent and nobody has received; None for its leaving."""

    async def send(self, *messages: ServerMessage | str) -> None:
        """Send messages, or text as it is."""
        for message in messages:
            await self._socket.send_str(message if isinstance(message, str) else encode(message))

    async def receive(self, kind: type[T]) -> T:
        """The client's next message. Raises AssertionError where it is of another kind, TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            message = await self.arrived.get()
        if not isinstance(message, kind):
            raise AssertionError(f"expected {kind.__name__}, got {message!r}")  # noqa: TRY004 # a test's expectation
        return message

    async def answer(self, text: str) -> Chat:
        """Serve one whole answer to the client's next message, which is returned."""
        chat = await self.receive(Chat)
        await self.send(Started(chat.id, 31), Delta(chat.id, 0, text), done(chat.id))
        return chat

    async def wait_left(self) -> None:
        """Return when the client has closed its side; nothing else may come before. Raises AssertionError."""
        async with asyncio.timeout(WAIT_S):
            message = await self.arrived.get()
        if message is not None:
            raise AssertionError(f"expected the end, got {message!r}")

    async def close(self, code: int = 1000) -> None:
        """Close in order."""
        await self._socket.close(code=code)

    def abort(self) -> None:
        """Break the connection, as a server that was killed does."""
        if self._request.transport is not None:
            self._request.transport.abort()


class ScriptedServer:
    """Accepts connections on a free port of the loopback and greets them."""

    def __init__(self) -> None:
        self.url = ""
        self.greeting: Hello | str = HELLO
        """The first message on each connection."""
        self.refusal: web.HTTPException | None = None
        """Answered instead of an upgrade, where it is set."""
        self.deaf = False
        """Whether new connections leave everything unanswered, WebSocket pings too."""
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._sockets: list[web.WebSocketResponse] = []
        self._runner: web.AppRunner | None = None

    async def accept(self) -> Peer:
        """The next connection, in order. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            return await self._peers.get()

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/v1/ws", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close every connection and stop listening; a second time does nothing."""
        for socket in self._sockets:
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.refusal is not None:
            raise self.refusal
        socket = web.WebSocketResponse(autoping=not self.deaf)
        await socket.prepare(request)
        self._sockets.append(socket)
        peer = Peer(request, socket)
        await peer.send(self.greeting)
        self._peers.put_nowait(peer)
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                peer.arrived.put_nowait(decode_client_message(frame.data))
        peer.arrived.put_nowait(None)
        return socket


@asynccontextmanager
async def open_scripted_server() -> AsyncIterator[ScriptedServer]:
    """A listening server for as long as the block lasts."""
    server = ScriptedServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
