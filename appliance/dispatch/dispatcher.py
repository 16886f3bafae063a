"""Admission and events: the only place that starts requests. Knows the Engine contract; knows no sockets.

Every request that `submit` takes ends in exactly one terminal event, whatever engine and client do.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Sequence

import msgspec

from appliance.config import DispatchSettings
from appliance.dispatch.capacity import Capacity
from appliance.dispatch.fair_queue import FairQueue
from appliance.dispatch.positions import Positions
from appliance.dispatch.ticket import CancelReason, RequestSink, State, Ticket
from appliance.engine.base import Engine, EngineLimits
from appliance.engine.ipc import Step
from appliance.errors import (
    BadRequest,
    DeadlineExceeded,
    Drained,
    EngineRestarted,
    InternalError,
    PromptTooLong,
    QueueFull,
    RequestError,
    ShuttingDown,
)
from appliance.observability.events import Event, event
from appliance.observability.logs import SELDOM, fields
from appliance.observability.metrics import Metrics
from appliance.types import ChatRequest

log = logging.getLogger(__name__)

DRAINED_RETRY_S = 30.0  # maintenance takes a while; asking again costs little
PREPARE_AHEAD = 2  # one under way and one behind it keep the tokenizer busy


class Dispatcher:
    """Takes requests, keeps them in a bounded fair queue, starts them when their worst case fits."""

    def __init__(self, engine: Engine, settings: DispatchSettings, capacity: Capacity, metrics: Metrics) -> None:
        self._engine = engine
        self.settings = settings
        """Bounds of the queue; others from now on where they are replaced."""
        self.capacity = capacity
        """What one request may take; another where another model takes over."""
        self.model = ""
        """Id of what answers requests that start now, for the log."""
        self._metrics = metrics
        self._numbers = itertools.count(1)  # 0 is the worker's warm-up
        self._queue = FairQueue()
        self._preparing: set[int] = set()  # with the engine, and not answered yet, cancelled meanwhile or not
        self._running: dict[int, Ticket] = {}
        self._limits: EngineLimits | None = None  # None while there is no engine to start requests on
        self._positions = Positions(self._queue, self._running)
        self._drain_ends_at: float | None = None
        self.drained = False
        """Whether new requests are refused for maintenance; nothing ends of it."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return len(self._running)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the daemon is to end."""
        return self._drain_ends_at is not None

    @property
    def drain_left_s(self) -> float | None:
        """Seconds that live requests still have; None while nothing drains."""
        return None if self._drain_ends_at is None else max(0.0, self._drain_ends_at - time.monotonic())

    # ---- from clients -----------------------------------------------------------------------------------

    def submit(self, request: ChatRequest, sink: RequestSink) -> Ticket:
        """Take a request; its events go to `sink`. Raises UnavailableError, and then takes nothing."""
        try:
            self._check_room(request.client)
        except RequestError as error:
            self._metrics.rejected(error.code)
            if isinstance(error, QueueFull):
                extra = event(Event.QUEUE_FULL, waiting=self.waiting, client=request.client, code=error.code)
                log.warning("request refused, the queue is full", extra=extra | SELDOM)
            raise
        ticket = Ticket(next(self._numbers), request, sink)
        ticket.on_end = self._ended
        loop = asyncio.get_running_loop()
        ticket.deadline = loop.call_later(request.deadline_s, self._expire, ticket)
        self._queue.push(ticket)
        self._idle.clear()
        self._prepare()
        self._positions.changed()
        return ticket

    def cancel(self, ticket: Ticket, reason: CancelReason = "client") -> None:
        """Have a request end as cancelled: at once where it waits, after the step under way where it runs."""
        ticket.cancel_reason = ticket.cancel_reason or reason
        if ticket.state is State.RUNNING:
            if not ticket.cancelling:
                ticket.cancelling = True
                self._engine.cancel(ticket.number)
        elif ticket.state is not State.ENDED:
            self._forget(ticket)
            ticket.done("cancelled")
            self._admit()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, give live ones `timeout_s` seconds, then fail the rest with ShuttingDown."""
        self._drain_ends_at = time.monotonic() + timeout_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        for ticket in [*self._queue, *self._running.values()]:
            if ticket.state is not State.RUNNING:
                self._forget(ticket)
            else:
                self._engine.cancel(ticket.number)
            ticket.failed(ShuttingDown("the appliance is shutting down", retry_after_s=5))

    def _check_room(self, client: str) -> None:
        if self.drain_left_s is not None:
            raise ShuttingDown("the appliance is shutting down", retry_after_s=max(5.0, self.drain_left_s))
        if self.drained:
            raise Drained("the appliance is out of service for maintenance", retry_after_s=DRAINED_RETRY_S)
        if len(self._queue) >= self.settings.max_waiting:
            raise QueueFull(
                f"{len(self._queue)} requests wait, which is all there is room for",
                retry_after_s=self._positions.retry_after_s(),
            )
        own = self._queue.waiting_of(client)
        if own >= self.settings.max_waiting_per_client:
            raise QueueFull(
                f"{own} of your requests wait, which is all one client may have",
                retry_after_s=self._positions.retry_after_s(),
            )

    # ---- from the engine (EngineListener) ---------------------------------------------------------------

    def engine_ready(self, limits: EngineLimits) -> None:
        """A worker to start requests on: everything that waits is prepared on it."""
        self._limits, self._positions.slots = limits, limits.max_running_requests
        self._unprepare()
        self._prepare()

    def engine_away(self) -> None:
        """Start nothing until the engine is ready again; what waits goes on waiting."""
        self._limits = self._positions.slots = None
        self._unprepare()
        self._positions.changed()

    def prompt_prepared(self, request_id: int, prompt_tokens: int) -> None:
        """The length is known: refuse what can never fit, start what fits now."""
        self._preparing.discard(request_id)
        self._prepare()
        ticket = next((t for t in self._queue if t.number == request_id), None)
        if ticket is None or self._limits is None:
            return  # cancelled meanwhile
        ticket.prompt_tokens = prompt_tokens
        ticket.state = State.WAITING
        most = self.capacity.longest_prompt(self._limits)
        if prompt_tokens > most:
            self._forget(ticket)
            ticket.failed(PromptTooLong(f"the prompt has {prompt_tokens} tokens; at most {most} fit"))
        self._admit()

    def request_rejected(self, request_id: int, message: str) -> None:
        """The engine can't take this one."""
        self._preparing.discard(request_id)
        self._prepare()
        ticket = self._running.pop(request_id, None)
        if ticket is None:
            ticket = next((t for t in self._queue if t.number == request_id), None)
        if ticket is not None:
            self._queue.remove(ticket)
            ticket.failed(BadRequest(message))
        self._admit()

    def step_done(self, step: Step) -> None:
        """Pass on what a step brought."""
        for delta in step.deltas:
            ticket = self._running.get(delta.id)
            if ticket is not None:
                since = ticket.grew(delta.text, delta.tokens)
                self._metrics.tokens(delta.tokens, since)
        for finish in step.finished:
            ticket = self._running.pop(finish.id, None)
            if ticket is None:
                continue
            if finish.error is not None:
                log.error("engine failed a request", extra=fields(request_id=finish.id, reason=finish.error))
                ticket.failed(InternalError(finish.error))
            else:
                ticket.completion_tokens = finish.completion_tokens
                ticket.done(finish.reason)
        if step.finished:
            self._admit()

    def requests_lost(self, request_ids: Sequence[int], retry_after_s: float) -> None:
        """Fail what a worker held that is gone."""
        waiting = {ticket.number: ticket for ticket in self._queue}
        for request_id in request_ids:
            ticket = self._running.pop(request_id, None) or waiting.get(request_id)
            if ticket is None:
                continue  # cancelled while it was prepared
            self._queue.remove(ticket)
            if ticket.cancelling:
                ticket.done("cancelled")
            ticket.failed(EngineRestarted("the engine stopped and is being restarted", retry_after_s=retry_after_s))
        self._admit()

    # ---- within -----------------------------------------------------------------------------------------

    def _unprepare(self) -> None:
        """What waits was prepared by a worker that is not asked any more."""
        self._preparing.clear()
        for ticket in self._queue:
            ticket.state = State.NEW

    def _prepare(self) -> None:
        """Have the next prompts tokenized, a few at a time: the others cost the engine nothing if they are cancelled,
        and what waits in its channel is bounded.
        """
        for ticket in list(self._queue):
            if self._limits is None or len(self._preparing) >= PREPARE_AHEAD:
                return
            if ticket.state is State.NEW:
                ticket.state = State.PREPARING
                self._preparing.add(ticket.number)
                self._engine.prepare(ticket.number, ticket.request.messages)

    def _admit(self) -> None:
        """Start waiting requests, in order, while their worst case fits; the first that does not fit ends it."""
        limits = self._limits
        if limits is None:
            return
        for ticket in list(self._queue):
            if ticket.state is not State.WAITING:
                continue
            sampling = ticket.request.sampling
            max_tokens, blocks = self.capacity.worst_case(ticket.prompt_tokens, sampling.max_tokens, limits)
            free = limits.kv_blocks - sum(running.blocks for running in self._running.values())
            if blocks > free or len(self._running) >= limits.max_running_requests:
                break
            ticket.blocks = blocks
            ticket.max_tokens = max_tokens
            self._queue.served(ticket)
            self._running[ticket.number] = ticket
            self._engine.start(ticket.number, msgspec.structs.replace(sampling, max_tokens=max_tokens))
            ticket.model = self.model
            ticket.started()
            self._metrics.started(ticket.prompt_tokens, ticket.timings().queue_ms / 1000)
        self._positions.changed()

    def _forget(self, ticket: Ticket) -> None:
        """Take a request that does not run out of the queue, and out of the engine's prepared prompts."""
        self._queue.remove(ticket)
        if ticket.state in (State.PREPARING, State.WAITING):
            self._engine.cancel(ticket.number)

    def _expire(self, ticket: Ticket) -> None:
        if ticket.state is State.RUNNING:
            self._engine.cancel(ticket.number)
        else:
            self._forget(ticket)
        where = "while it was answered" if ticket.state is State.RUNNING else "in the queue"
        ticket.failed(DeadlineExceeded(f"the deadline of {ticket.request.deadline_s:g} s passed {where}"))
        self._admit()

    def _ended(self, ticket: Ticket, outcome: str) -> None:
        timings = ticket.timings()
        if ticket.started_at is not None and outcome in ("stop", "length"):
            self._positions.answered(timings, ticket.completion_tokens)
        self._metrics.ended(outcome, timings, ticket.completion_tokens)
        cancelled = ticket.cancel_reason if outcome == "cancelled" else None
        log.info(
            "request ended",
            extra=fields(
                request_id=ticket.number, client=ticket.request.client, model=ticket.model or self.model,
                outcome=outcome, cancel_reason=cancelled, code=ticket.error_code,
                prompt_tokens=ticket.prompt_tokens, completion_tokens=ticket.completion_tokens,
                queue_ms=timings.queue_ms, ttft_ms=timings.ttft_ms, tpot_ms=timings.tpot_ms, total_ms=timings.total_ms,
            ),
        )  # fmt: skip
        if not self._queue and not any(t.state is not State.ENDED for t in self._running.values()):
            self._idle.set()
