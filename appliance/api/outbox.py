"""Messages on their way to one client: a bounded queue with one writer. Knows no request."""

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import web

from appliance.protocol.websocket import ServerMessage, encode

OUTBOX_MAX_CHARS = 1 << 20  # whatever the number of messages: some are as large as the client makes them


class Outbox:
    """Bounded: a reader that falls behind by `max_messages`, or OUTBOX_MAX_CHARS, is given up.

    `on_overflow` is told once, in the loop's next turn, so that it may do what it likes.
    """

    def __init__(self, ws: web.WebSocketResponse, max_messages: int, on_overflow: Callable[[], None]) -> None:
        self._ws = ws
        self._max_messages = max_messages
        self._on_overflow = on_overflow
        self._messages: deque[str] = deque()
        self._chars = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = True

    def put(self, message: ServerMessage) -> None:
        """Queue a message; dropped once the outbox is closed."""
        if not self._open:
            return
        text = encode(message)
        if len(self._messages) >= self._max_messages or (self._messages and self._chars + len(text) > OUTBOX_MAX_CHARS):
            self.close()
            asyncio.get_running_loop().call_soon(self._on_overflow)
            return
        self._messages.append(text)
        self._chars += len(text)
        self._empty.clear()
        self._wake.set()

    def close(self) -> None:
        """Drop what waits and take no more."""
        self._open = False
        self._messages.clear()
        self._empty.set()

    async def flushed(self) -> None:
        """Wait until all that was put has been handed to the transport, or the outbox is closed."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write, one message after another, until cancelled or the connection is gone."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._messages:
                    text = self._messages.popleft()
                    self._chars -= len(text)
                    await self._ws.send_str(text)
                self._empty.set()
        except ConnectionError:
            self.close()  # the reading side notices the same and ends the connection
