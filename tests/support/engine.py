"""An EngineClient with a listener that remembers, for the contract that every pipeline keeps."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

from appliance.config import EngineSettings
from appliance.engine.base import EngineLimits
from appliance.engine.client import EngineClient
from appliance.engine.ipc import Finish, Load, Step
from appliance.engine.recycling import Recycler
from appliance.observability.metrics import Metrics
from appliance.types import Message, Sampling
from tests.support.daemon import until

SUPERVISION = EngineSettings(load_timeout_s=60, stall_timeout_s=30, start_attempts=2, restart_backoff_max_s=1)


def greedy(max_tokens: int, *stop: str) -> Sampling:
    """Greedy sampling."""
    return Sampling(
        max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=1, stop=tuple(stop)
    )


class Listener:
    """Remembers everything, by request."""

    def __init__(self) -> None:
        self.limits: list[EngineLimits] = []
        self.prompt_tokens: dict[int, int] = {}
        self.rejected: dict[int, str] = {}
        self.texts: dict[int, list[str]] = {}
        self.tokens: dict[int, int] = {}
        self.finished: dict[int, list[Finish]] = {}
        self.steps: list[Step] = []
        self.away = 0
        self.lost: list[int] = []

    def engine_ready(self, limits: EngineLimits) -> None:
        self.limits.append(limits)

    def prompt_prepared(self, request_id: int, prompt_tokens: int) -> None:
        self.prompt_tokens[request_id] = prompt_tokens

    def request_rejected(self, request_id: int, message: str) -> None:
        self.rejected[request_id] = message

    def step_done(self, step: Step) -> None:
        self.steps.append(step)
        for delta in step.deltas:
            assert delta.id not in self.finished, "a delta after the end"
            self.texts.setdefault(delta.id, []).append(delta.text)
            self.tokens[delta.id] = self.tokens.get(delta.id, 0) + delta.tokens
        for finish in step.finished:
            self.finished.setdefault(finish.id, []).append(finish)

    def engine_away(self) -> None:
        self.away += 1

    def requests_lost(self, request_ids: Sequence[int], retry_after_s: float) -> None:
        assert retry_after_s >= 1
        for request_id in request_ids:
            assert request_id not in self.finished, "lost after its end"
            assert request_id not in self.lost, "lost twice"
            self.lost.append(request_id)


class Heard:
    """An engine and what it said."""

    def __init__(self, engine: EngineClient, listener: Listener) -> None:
        self.engine = engine
        self.listener = listener
        self._numbers = itertools.count(1)

    async def ready(self, times: int = 1) -> None:
        """Wait until the engine got ready for the `times`-th time."""
        await until(lambda: len(self.listener.limits) >= times, 60)

    async def prepare(self, text: str) -> int:
        """A prepared request's id."""
        request_id = next(self._numbers)
        self.engine.prepare(request_id, [Message("user", text)])
        await until(lambda: request_id in self.listener.prompt_tokens or request_id in self.listener.rejected)
        return request_id

    async def begin(self, text: str, sampling: Sampling) -> int:
        """A started request's id."""
        request_id = await self.prepare(text)
        self.engine.start(request_id, sampling)
        return request_id

    async def finish(self, request_id: int) -> Finish:
        """The end of a request."""
        await until(lambda: request_id in self.listener.finished, 60)
        (finish,) = self.listener.finished[request_id]
        return finish

    async def grown(self, request_id: int, tokens: int = 1) -> None:
        """Wait until a request has so many tokens."""
        await until(lambda: self.listener.tokens.get(request_id, 0) >= tokens, 60)

    def text(self, request_id: int) -> str:
        """What was streamed of a request."""
        return "".join(self.listener.texts.get(request_id, []))


@contextlib.asynccontextmanager
async def heard(
    load: Load, supervision: EngineSettings = SUPERVISION, *, changes_mode: bool = True
) -> AsyncIterator[Heard]:
    """A supervised engine, ready, and ended on leaving.

    `changes_mode`: whether it may replace its worker where drafts are measured to pay or not (a matter of the
    machine's speed), as it does where `load` watches them.
    """
    engine = EngineClient(load, supervision, Metrics())
    if not changes_mode:
        engine.recycler = Recycler(engine, supervision, None)
    listener = Listener()
    task = asyncio.create_task(engine.run(listener))
    try:
        both = Heard(engine, listener)
        ready = asyncio.create_task(both.ready())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            ready.cancel()
            task.result()
        await ready
        yield both
    finally:
        engine.stop()
        await asyncio.gather(task, return_exceptions=True)
