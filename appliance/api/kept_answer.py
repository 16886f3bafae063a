"""One resumable answer: all that was said of it, and the one socket that hears it now. Knows no bounds and no clock."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from appliance.api.events import Event, error_message
from appliance.api.outbox import Outbox
from appliance.dispatch import Ticket
from appliance.errors import TakenOver
from appliance.protocol import websocket as wire

BLOCK_CHARS = 4096  # the longest delta of a replay; in JSON at most 24 KiB of the outbox


class Text:
    """A text that grows at its end; any part of it by the offset in code points."""

    def __init__(self) -> None:
        self._blocks: list[str] = []  # of BLOCK_CHARS each, but the last
        self._chars = 0

    def __len__(self) -> int:
        return self._chars

    def append(self, text: str) -> None:
        """Add text at the end."""
        self._chars += len(text)
        if self._blocks:
            text = self._blocks.pop() + text
        self._blocks += (text[start : start + BLOCK_CHARS] for start in range(0, len(text), BLOCK_CHARS))

    def piece(self, offset: int) -> str:
        """What follows `offset` >= 0, at most BLOCK_CHARS of it; empty at the end."""
        block, start = divmod(offset, BLOCK_CHARS)
        return self._blocks[block][start:] if block < len(self._blocks) else ""


class KeptAnswer:
    """What one request said, from its beginning, for the socket that hears it and for those that come later."""

    def __init__(self, session: str, request_id: str, client: str) -> None:
        """`session`: of the socket that the request came over."""
        self.key = (session, request_id)
        self.client = client
        self.text = Text()
        self.queued: wire.Queued | None = None
        self.started: wire.Started | None = None
        self.end: wire.Done | wire.Error | None = None
        self.ticket: Ticket  # once the request was taken
        self.delivery: Delivery | None = None
        """To the socket that hears it, after the end too; None while it is detached."""
        self.keeper: Listener | None = None
        """Whom to tell of growth and end, while it is kept."""
        self.forgetting: asyncio.TimerHandle | None = None
        """Ends the time in which a socket may have it back."""
        self._given_up = False

    def tell(self, event: Event) -> None:
        """Take the next event of the request."""
        if self._given_up:
            if self.delivery is not None:
                self.delivery.put(event)
            return
        match event:
            case wire.Queued():
                self.queued = event
            case wire.Started():
                self.started = event
            case wire.Delta(text=text):
                self.text.append(text)
                if self.keeper is not None:
                    self.keeper.grew(len(text))
            case wire.Done() | wire.Error():
                self.end = event
                if self.keeper is not None:
                    self.keeper.ended(self)
        if self.delivery is not None:
            self.delivery.announce()

    def give_up(self) -> None:
        """Keep nothing from now on: the socket that hears it, if there is one, hears the rest as it comes."""
        self.keeper = None
        self._given_up = True
        if self.forgetting is not None:
            self.forgetting.cancel()
        if self.delivery is not None:
            self.delivery.say_the_rest_directly()


class Listener(Protocol):
    """Who counts what is kept."""

    def grew(self, chars: int) -> None:
        """A kept answer has more text."""

    def ended(self, answer: KeptAnswer) -> None:
        """A kept answer has its terminal event."""


class Delivery:
    """A kept answer on its way to one socket, from an offset: the outbox asks for it as fast as the reader reads.

    However far behind the reader is, nothing waits but the kept text itself.
    """

    def __init__(self, answer: KeptAnswer, outbox: Outbox, forget: Callable[[str], None], *, offset: int = 0) -> None:
        """`forget` is called with the request's id when its terminal event is handed over, or another socket has it."""
        self.outbox = outbox
        self.over = False
        """Whether the terminal event has been handed over."""
        self._answer = answer
        self._forget = forget
        self._offset = offset
        self._queued: wire.Queued | None = None
        self._started = False

    def announce(self) -> None:
        """There may be something to say."""
        self.outbox.follow(self)

    def next_message(self) -> Event | None:
        """See Source: where it stands, its text, its end."""
        answer = self._answer
        if answer.started is None and answer.queued is not self._queued:
            self._queued = answer.queued
            return answer.queued
        if answer.started is not None and not self._started:
            self._started = True
            return answer.started
        if piece := answer.text.piece(self._offset):
            delta = wire.Delta(answer.key[1], self._offset, piece)
            self._offset += len(piece)
            return delta
        if answer.end is not None and not self.over:
            self._finish()
            return answer.end
        return None

    def put(self, event: Event) -> None:
        """Say it as other requests do: it waits in the bounded outbox, which may close its socket for it."""
        if isinstance(event, wire.Done | wire.Error):
            self._finish()
        self.outbox.put(event)

    def say_the_rest_directly(self) -> None:
        """Put what has not been said yet into the outbox."""
        self.outbox.unfollow(self)
        while (message := self.next_message()) is not None:
            self.outbox.put(message)

    def revoke(self) -> None:
        """Another socket has the answer: say so, and nothing after that."""
        self.outbox.unfollow(self)
        if not self.over:
            self._finish()
            self.outbox.put(error_message(self._answer.key[1], TakenOver("the request goes on over another socket")))

    def _finish(self) -> None:
        self.over = True
        self._forget(self._answer.key[1])
