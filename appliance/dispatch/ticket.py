"""One accepted request: its state, its clock, its one terminal event. Knows no queue and no engine."""

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from typing import Literal, Protocol

from appliance.errors import RequestError
from appliance.types import ChatRequest, FinishReason, Timings, Usage

CancelReason = Literal["client", "disconnected", "slow_reader", "not_resumed"]


class RequestSink(Protocol):
    """Where the events of one request go. Called from the event loop; must not block and must not raise."""

    def queued(self, position: int, eta_s: float | None) -> None:
        """It waits; called again whenever the position changes."""

    def started(self, prompt_tokens: int) -> None:
        """The engine has taken it."""

    def delta(self, offset: int, text: str) -> None:
        """New text; `offset` counts the code points before it."""

    def done(self, reason: FinishReason, usage: Usage, timings: Timings) -> None:
        """Terminal: it ended well, or was cancelled."""

    def failed(self, error: RequestError) -> None:
        """Terminal: it failed."""


class State(Enum):
    """Where a request is on its way."""

    NEW = "its prompt is not with the engine"
    PREPARING = "the engine tokenizes its prompt"
    WAITING = "its length is known; it waits for room"
    RUNNING = "the engine generates"
    ENDED = "its terminal event is out"


class Ticket:
    """A request on its way; `done` and `failed` send the terminal event once and are deaf afterwards."""

    def __init__(self, number: int, request: ChatRequest, sink: RequestSink) -> None:
        self.number = number
        self.request = request
        self.state = State.NEW
        self.prompt_tokens = 0
        self.blocks = 0
        """KV blocks that it may come to use, while it runs."""
        self.max_tokens = request.sampling.max_tokens
        """Most tokens of its answer; lowered at admission to what the context leaves."""
        self.position: int | None = None
        """Place in the queue that was last told, 1 is next."""
        self.model = ""
        """Id of the model that answers, once it has started."""
        self.cancelling = False
        self.cancel_reason: CancelReason | None = None
        """Why its end was asked for, the first time."""
        self.error_code: str | None = None
        """Of the error that was its end."""
        self.arrived_at = time.monotonic()
        self.started_at: float | None = None
        self.first_text_at: float | None = None
        self.last_tokens_at: float | None = None
        self.completion_tokens = 0
        self.first_tokens = 0
        self.deadline: asyncio.TimerHandle | None = None
        self.on_end: Callable[[Ticket, str], None] | None = None
        """Told of the end, with its outcome for the metrics, after the terminal event."""
        self._chars = 0
        self._sink = sink

    def queued(self, position: int, eta_s: float | None) -> None:
        """Tell the position where it is news."""
        if position != self.position and self.state is not State.ENDED:
            self.position = position
            self._sink.queued(position, eta_s)

    def started(self) -> None:
        """The engine has it."""
        self.state = State.RUNNING
        self.started_at = time.monotonic()
        self._sink.started(self.prompt_tokens)

    def grew(self, text: str, tokens: int) -> float | None:
        """Count tokens and pass text on; returns seconds since the tokens before these, None for the first."""
        now = time.monotonic()
        since = None if self.last_tokens_at is None else now - self.last_tokens_at
        if tokens:
            self.last_tokens_at = now
            self.completion_tokens += tokens
        if text and self.state is not State.ENDED:
            if self.first_text_at is None:
                self.first_text_at = now
                self.first_tokens = self.completion_tokens
            self._sink.delta(self._chars, text)
            self._chars += len(text)
        return since

    def done(self, reason: FinishReason) -> None:
        """Terminal event of an answer that ended well or was cancelled."""
        if self._end():
            self._sink.done(reason, Usage(self.prompt_tokens, self.completion_tokens), self.timings())
            self._told(reason)

    def failed(self, error: RequestError) -> None:
        """Terminal event of an answer that failed."""
        if self._end():
            self.error_code = error.code
            self._sink.failed(error)
            self._told(error.code)

    def _end(self) -> bool:
        if self.state is State.ENDED:
            return False
        self.state = State.ENDED
        if self.deadline is not None:
            self.deadline.cancel()
        return True

    def _told(self, outcome: str) -> None:
        if self.on_end is not None:
            self.on_end(self, outcome)

    def timings(self) -> Timings:
        """Milliseconds from arrival until now."""
        now = time.monotonic()
        tpot_ms = None
        later = self.completion_tokens - self.first_tokens
        if self.first_text_at is not None and self.last_tokens_at is not None and later > 0:
            tpot_ms = round((self.last_tokens_at - self.first_text_at) * 1000 / later, 2)
        return Timings(
            queue_ms=_ms((self.started_at or now) - self.arrived_at),
            ttft_ms=None if self.first_text_at is None else _ms(self.first_text_at - self.arrived_at),
            tpot_ms=tpot_ms,
            total_ms=_ms(now - self.arrived_at),
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
