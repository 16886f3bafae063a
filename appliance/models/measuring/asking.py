"""One worker that is asked questions, and how long its answers take. Knows the channel; knows no quality."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from appliance.engine.ipc import Fatal, Load, Prepare, Prepared, Ready, Rejected, Report, Start, Step
from appliance.engine.process import WorkerProcess, open_worker
from appliance.models.errors import ModelError
from appliance.types import Message, Sampling

LEAST_TOKENS = 4  # an answer of fewer says nothing of the time between two


class SpeedNotMeasured(ModelError):
    """A worker did not load, or did not answer."""


class Answer(Struct, frozen=True):
    """One answer's times."""

    ttft_ms: float
    """From the moment that all questions were sent."""
    ms_per_token: float
    prompt_tokens: int
    tokens: int


class _Asked:
    """A question on its way."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.first = 0.0
        self.last = 0.0
        self.tokens = 0
        self.over = False

    def took(self, tokens: int) -> None:
        if tokens:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.tokens += tokens

    def answer(self, began: float) -> Answer:
        if self.tokens < LEAST_TOKENS:
            raise SpeedNotMeasured(f"an answer had {self.tokens} tokens, {LEAST_TOKENS} are needed")
        return Answer(
            (self.first - began) * 1000,
            (self.last - self.first) * 1000 / (self.tokens - 1),
            self.prompt_tokens,
            self.tokens,
        )


class LoadedWorker:
    """A worker that is ready, and answers what it is asked together."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self._reports = self._read()
        self._asked = 0

    async def ready(self) -> None:
        """Wait until it has loaded. Raises SpeedNotMeasured, ChannelError."""
        async for report in self._reports:
            if isinstance(report, Ready):
                return

    async def ask(self, questions: Sequence[str], max_tokens: int) -> list[Answer]:
        """Ask all at once, greedily; their answers in the same order. The caller bounds the time.

        Raises SpeedNotMeasured where an answer is refused, too short, or ended by the engine; ChannelError.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=1)
        asked = {self._asked + number: _Asked() for number in range(1, len(questions) + 1)}
        self._asked += len(questions)
        began = time.perf_counter()
        for request_id, question in zip(asked, questions, strict=True):
            self.process.send(Prepare(request_id, [Message("user", question)]))
        async for report in self._reports:
            match report:
                case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                    asked[request_id].prompt_tokens = prompt_tokens
                    self.process.send(Start(request_id, sampling))
                case Rejected(message=message):
                    raise SpeedNotMeasured(message)
                case Step(deltas=deltas, finished=finished):
                    for delta in deltas:
                        asked[delta.id].took(delta.tokens)
                    for finish in finished:
                        if finish.error is not None:
                            raise SpeedNotMeasured(finish.error)
                        asked[finish.id].over = True
            if all(one.over for one in asked.values()):
                break
        return [one.answer(began) for one in asked.values()]

    async def _read(self) -> AsyncIterator[Report]:
        """Raises SpeedNotMeasured at the worker's end."""
        while reports := await self.process.receive():
            for report in reports:
                if isinstance(report, Fatal):
                    raise SpeedNotMeasured(report.message)
                yield report
        raise SpeedNotMeasured("the worker ended")


@asynccontextmanager
async def open_loaded_worker(load: Load, timeout_s: float) -> AsyncIterator[LoadedWorker]:
    """A worker that is gone at the end of the block, whatever ends it.

    Raises SpeedNotMeasured, ChannelError, OSError; TimeoutError where it is not ready in `timeout_s` seconds.
    """
    process = await open_worker()
    try:
        process.send(load)
        worker = LoadedWorker(process)
        async with asyncio.timeout(timeout_s):
            await worker.ready()
        yield worker
    finally:
        await process.end()
