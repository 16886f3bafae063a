"""A dispatcher over a real worker process, and clients that ask it one thing after another."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

from appliance.config import DispatchSettings, EngineSettings
from appliance.dispatch import Capacity, Dispatcher, Ticket
from appliance.engine.client import EngineClient
from appliance.engine.ipc import Load
from appliance.engine.recovery import FallBack
from appliance.engine.replacing import Handover
from appliance.errors import RequestError
from appliance.observability.metrics import Metrics
from appliance.types import ChatRequest, FinishReason, Message, Timings, Usage
from tests.support.daemon import until
from tests.support.engine import greedy

DEADLINE_S = 60.0


class Answer:
    """The events of one request; a second end, or text after the end, fails."""

    def __init__(self) -> None:
        self.text = ""
        self.is_started = False
        self.end: FinishReason | RequestError | None = None
        self.ended = asyncio.Event()

    def queued(self, position: int, eta_s: float | None) -> None:
        """Not looked at."""

    def started(self, prompt_tokens: int) -> None:
        assert not self.is_started, "started twice"
        self.is_started = True

    def delta(self, offset: int, text: str) -> None:
        assert self.end is None
        assert offset == len(self.text)
        self.text += text

    def done(self, reason: FinishReason, usage: Usage, timings: Timings) -> None:
        self._end(reason)

    def failed(self, error: RequestError) -> None:
        self._end(error)

    def _end(self, end: FinishReason | RequestError) -> None:
        assert self.end is None, "ended twice"
        self.end = end
        self.ended.set()


class Served:
    """An engine and its dispatcher."""

    def __init__(self, load: Load, settings: EngineSettings, handover: Handover) -> None:
        self.metrics = Metrics()
        self.engine = EngineClient(load, settings, self.metrics, handover)
        capacity = Capacity(context_tokens=4096, kv_cache_tokens=load.kv_cache_tokens)
        self.dispatcher = Dispatcher(self.engine, DispatchSettings(), capacity, self.metrics)
        self._clients = itertools.count()

    async def ready(self) -> None:
        """Wait until the engine is ready."""
        await until(lambda: self.engine.state == "ready", 60)

    def ask(self, text: str, tokens: int, client: str = "one") -> tuple[Ticket, Answer]:
        """Submit one request."""
        answer = Answer()
        request = ChatRequest(
            client=client, messages=[Message("user", text)], sampling=greedy(tokens), deadline_s=DEADLINE_S
        )
        return self.dispatcher.submit(request, answer), answer

    async def talk(self, steering: str, tokens: int, enough: asyncio.Event) -> list[tuple[str, Answer]]:
        """One client that asks until `enough`; its questions, steering left out, and answers."""
        client, said = f"client {next(self._clients)}", []
        for number in itertools.count():
            question = f"{client} asks {number}"
            said.append((question, self.ask(f"{question} {steering}", tokens, client)[1]))
            await asyncio.wait_for(said[-1][1].ended.wait(), 2 * DEADLINE_S)
            if enough.is_set():
                break
        return said


@contextlib.asynccontextmanager
async def serving(
    load: Load,
    settings: EngineSettings,
    handover: Handover | None = None,
    fall_back: FallBack = lambda _: None,
) -> AsyncIterator[Served]:
    """A ready engine with its dispatcher, ended on leaving."""
    served = Served(load, settings, handover or Handover())
    task = asyncio.create_task(served.engine.run(served.dispatcher, fall_back=fall_back))
    try:
        await served.ready()
        yield served
    finally:
        served.engine.stop()
        await task
