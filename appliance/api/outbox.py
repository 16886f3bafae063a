"""Messages on their way to one client: a bounded queue with one writer. Knows no request."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from appliance.protocol.websocket import ServerMessage, encode

OUTBOX_MAX_CHARS = 1 << 20  # whatever the number of messages: some are as large as the client makes them


class Source(Protocol):
    """What has messages ready elsewhere, and is asked for one whenever the reader has room for it."""

    def next_message(self) -> ServerMessage | None:
        """The next message, None where there is none now. Must not block and must not raise."""


class Outbox:
    """Bounded: a reader that falls behind by `max_messages`, or OUTBOX_MAX_CHARS, is given up.

    What a source has does not wait here, and so counts for neither bound. Sources and messages that were put take
    turns. `on_overflow` is told once, in the loop's next turn, so that it may do what it likes.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        max_messages: int,
        on_overflow: Callable[[], None],
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_gone`: whether the connection is, where `ws` does not know that."""
        self._ws = ws
        self._is_gone = is_gone
        self._max_messages = max_messages
        self._on_overflow = on_overflow
        self._messages: deque[str] = deque()
        self._chars = 0
        self._sources: dict[Source, None] = {}  # in the order of their turns
        self._sources_turn = False
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
        self._wake_writer()

    def follow(self, source: Source) -> None:
        """Ask `source` for messages until it has none; it calls again when it has some."""
        if self._open:
            self._sources.setdefault(source)
            self._wake_writer()

    def unfollow(self, source: Source) -> None:
        """Ask it no more."""
        self._sources.pop(source, None)

    def close(self) -> None:
        """Drop what waits and take no more."""
        self._open = False
        self._messages.clear()
        self._sources.clear()
        self._empty.set()

    async def flushed(self) -> None:
        """Wait until all that was put or can be asked for has been handed to the transport, or the outbox is closed."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write, one message after another, until cancelled or the connection is gone."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while (text := self._next()) is not None:
                    if self._is_gone():
                        raise ConnectionResetError
                    await self._ws.send_str(text)
                self._empty.set()
        except ConnectionError:
            self.close()  # the reading side notices the same and ends the connection

    def _wake_writer(self) -> None:
        self._empty.clear()
        self._wake.set()

    def _next(self) -> str | None:
        self._sources_turn = not self._sources_turn
        if self._sources_turn or not self._messages:
            message = self._ask()
            if message is not None:
                return encode(message)
        if not self._messages:
            return None
        text = self._messages.popleft()
        self._chars -= len(text)
        return text

    def _ask(self) -> ServerMessage | None:
        """A message of the source whose turn it is; one that has none leaves."""
        while self._sources:
            source = next(iter(self._sources))
            del self._sources[source]
            message = source.next_message()
            if message is not None:
                self._sources[source] = None  # behind the others
                return message
        return None
