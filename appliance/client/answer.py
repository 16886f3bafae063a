"""One answer as it arrives: order, bounds, the end. Knows no sockets."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import Struct

from appliance.client.errors import ClientError, ConnectionLost, ProtocolViolation, SlowReader
from appliance.protocol.websocket import Delta, Done, Queued, Started


class Interrupted(Struct, frozen=True):
    """The connection was lost; a resumable answer goes on once there is another, or raises ConnectionLost."""

    reason: str


Event = Queued | Started | Delta | Done | Interrupted

PENDING_MAX_EVENTS = 64  # beyond that deltas are joined: about 2.5 s at 25 tokens/s
PENDING_MAX_CHARS = 1 << 20  # far beyond any max_tokens; a consumer that far behind is gone


class Answer:
    """The answer to one request; iterate over it for text, or over `events()` for all that happens.

    It has one consumer. The socket's reader never waits for it, so that one slow consumer holds up neither the other
    answers nor the heartbeat: what waits beyond PENDING_MAX_EVENTS is joined into longer deltas, and beyond
    PENDING_MAX_CHARS the answer ends with SlowReader.

    Each failure is raised once, after all that came before it; then the iteration is over.
    """

    def __init__(self, request_id: str, cancel: Callable[[str], Awaitable[None]]) -> None:
        self.id = request_id
        self.queued: Queued | None = None
        """The last position in the queue that was seen."""
        self.started: Started | None = None
        self.on_loss: Callable[[str], None] | None = None
        """Told, with the reason, when the connection is lost; where there is one, the answer does not end by that."""
        self._has_started = False
        self._cancel = cancel
        self._pending: deque[Event] = deque()
        self._pending_chars = 0
        self._received_chars = 0
        self._arrived = asyncio.Event()
        self._parts: list[str] = []
        self._done: Done | None = None
        self._failure: ClientError | None = None
        self._over = False

    # ---- for the consumer --------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """What the consumer has got so far; the whole answer once `done` is there."""
        return "".join(self._parts)

    @property
    def done(self) -> Done:
        """How the answer ended: finish_reason, usage, timings. Raises ClientError before the end."""
        if self._done is None:
            raise ClientError(f"answer {self.id} has not ended")
        return self._done

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while (event := await self._next()) is not None:
            if isinstance(event, Delta):
                return event.text
        raise StopAsyncIteration

    def events(self) -> AsyncIterator[Event]:
        """Queued, Started, Delta and Done as they come; Interrupted where a resumable answer lost its connection.

        Raises RequestFailed where the server ends the request with an error, ConnectionLost, ProtocolViolation
        where the text has a gap or a repetition, SlowReader.
        """
        return _Events(self._next)

    async def cancel(self) -> None:
        """Ask the server to stop; the iteration then ends as always, with `done.finish_reason` "cancelled".

        The answer may still end otherwise, where its end was on the way; after the end this does nothing.
        While a resumable answer has no connection, this is said to the server as soon as it has one again.
        Raises ConnectionLost where the answer is not resumable.
        """
        await self._cancel(self.id)

    async def _next(self) -> Event | None:
        while not self._pending:
            if self._failure is not None and not self._over:
                self._over = True
                raise self._failure
            if self._over:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        event = self._pending.popleft()
        match event:
            case Queued():
                self.queued = event
            case Started():
                self.started = event
            case Delta(text=text):
                self._pending_chars -= len(text)
                self._parts.append(text)
            case Done():
                self._done, self._over = event, True
        return event

    # ---- for the connection ------------------------------------------------------------------------------

    @property
    def received_chars(self) -> int:
        """Code points that have come, whether or not they have been consumed."""
        return self._received_chars

    def accept(self, event: Event) -> None:
        """Take an event from the socket; never waits and never raises."""
        if self._failure is not None:
            return
        if isinstance(event, Started):
            if self._has_started:  # a resume has it said again
                return
            self._has_started = True
        if isinstance(event, Delta):
            if event.offset != self._received_chars:
                self.fail(
                    ProtocolViolation(
                        f"answer {self.id} goes on at character {event.offset} instead of {self._received_chars}"
                    )
                )
                return
            self._received_chars += len(event.text)
            self._pending_chars += len(event.text)
        self._put(event)
        self._arrived.set()

    def lost(self, reason: str) -> None:
        """The connection that carried it has ended."""
        if self.on_loss is None:
            self.fail(ConnectionLost(reason))
        elif self._failure is None:
            if len(self._pending) < PENDING_MAX_EVENTS:  # else its consumer has not even noticed
                self._pending.append(Interrupted(reason))
                self._arrived.set()
            self.on_loss(reason)

    def fail(self, failure: ClientError) -> None:
        """End the answer with `failure`, once what is pending has been consumed; a second failure is dropped."""
        if self._failure is None:
            self._failure = failure
            self._arrived.set()

    def close(self) -> None:
        """The consumer has left: what is pending or still comes is dropped."""
        self._over = True
        self._pending.clear()
        self._arrived.set()

    def _put(self, event: Event) -> None:
        last = self._pending[-1] if self._pending else None
        full = len(self._pending) >= PENDING_MAX_EVENTS
        if isinstance(last, Queued) and isinstance(event, Queued):
            self._pending[-1] = event
        elif full and isinstance(last, Delta) and isinstance(event, Delta):
            self._pending[-1] = Delta(event.id, last.offset, last.text + event.text)
        elif full and not isinstance(event, Done):
            self.fail(SlowReader(f"answer {self.id}: {len(self._pending)} events wait for their consumer"))
        else:
            self._pending.append(event)
        if self._pending_chars > PENDING_MAX_CHARS:
            self.fail(SlowReader(f"answer {self.id}: {self._pending_chars} characters wait for their consumer"))


class _Events:
    """The events of an answer; a class, so that leaving the loop early leaves no generator to be finalized."""

    def __init__(self, following: Callable[[], Awaitable[Event | None]]) -> None:
        self._following = following

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._following()
        if event is None:
            raise StopAsyncIteration
        return event
