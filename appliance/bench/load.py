"""The closed loop: so many clients, each of which asks, reads to the end, thinks, and asks again. Knows no server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

from appliance.bench.samples import Level, Sample, summarize
from appliance.bench.target import Target, TargetError
from appliance.bench.workload import CHAT_TURNS, MAX_TURNS, Workload, messages, sampling_seed

REQUEST_TIMEOUT_S = 600.0  # the server's longest deadline; a server that forgets its own must not hold the load
PAUSE_MAX_S = 5.0  # most that a server's retry_after is waited for
PAUSE_S = 0.05  # after a failure without one, so that a server that refuses at once is not asked in a busy loop


async def run_level(
    target_for: Callable[[int], Target],
    workload: Workload,
    concurrency: int,
    *,
    requests: int | None,
    duration_s: float | None,
    warm_up: int,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    on_sample: Callable[[Sample], None] | None = None,
) -> tuple[Level, list[Sample]]:
    """Load the targets of `concurrency` clients, and return what was measured.

    Each client makes `warm_up` requests that do not count; when all have, each makes `requests`, or asks until
    `duration_s` seconds are over (what was asked by then is read to its end); where both are given the first to come
    ends it. A failed request is counted by its code, never repeated, and followed by the pause that the server asked
    for, up to PAUSE_MAX_S. `on_sample` is told of each request that counts, from the event loop.

    The same workload asks the same questions again: for another level, or another round, take another seed, or a
    prefix cache knows them. Raises ValueError where nothing bounds it; a task of it that fails ends all.
    """
    if requests is None and duration_s is None:
        raise ValueError("either requests or duration_s must be given")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; expected at least 1")
    clients = [_Client(number, target_for(number), workload, request_timeout_s) for number in range(concurrency)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.warm_up(warm_up))
    # Whole conversations on: what was asked to warm up is not asked again.
    first_turn = -(-warm_up // CHAT_TURNS) * CHAT_TURNS
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.measure(began, first_turn, requests, duration_s, on_sample))
    samples = sorted((sample for client in clients for sample in client.samples), key=lambda sample: sample.began_s)
    return summarize(clients[0].target.name, workload.kind, concurrency, samples), samples


class _Client:
    """One client of the closed loop."""

    def __init__(self, number: int, target: Target, workload: Workload, timeout_s: float) -> None:
        self.number = number
        self.target = target
        self.samples: list[Sample] = []
        self._workload = workload
        self._timeout_s = timeout_s
        self._answers: list[str] = []
        self._pause_s = 0.0

    async def warm_up(self, requests: int) -> None:
        for turn in range(requests):
            await self._pause()
            await self._turn(turn, time.perf_counter())

    async def measure(
        self,
        began: float,
        first_turn: int,
        requests: int | None,
        duration_s: float | None,
        on_sample: Callable[[Sample], None] | None,
    ) -> None:
        last_turn = min(MAX_TURNS, first_turn + (MAX_TURNS if requests is None else requests))
        for turn in range(first_turn, last_turn):
            await self._pause()
            if duration_s is not None and time.perf_counter() - began >= duration_s:
                return
            sample = await self._turn(turn, began)
            self.samples.append(sample)
            if on_sample is not None:
                on_sample(sample)

    async def _pause(self) -> None:
        """As long as the answer before asks for."""
        pause_s, self._pause_s = self._pause_s, 0.0
        await asyncio.sleep(pause_s)

    async def _turn(self, turn: int, began: float) -> Sample:
        if turn % CHAT_TURNS == 0:
            self._answers = []
        sample, pause_s = await self._ask(turn, began)
        ending = self.target.ending
        self._answers.append(ending.text if ending is not None else "")
        self._pause_s = max(pause_s, self._workload.think_s)
        return sample

    async def _ask(self, turn: int, began: float) -> tuple[Sample, float]:
        workload = self._workload
        prompt = messages(workload, self.number, turn, self._answers)
        seed = sampling_seed(workload, self.number, turn)
        arrivals: list[float] = []
        tokens, pause_s, outcome = 0, 0.0, ""
        asked = time.perf_counter()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                _closing(self.target.ask(prompt, max_tokens=workload.output_tokens, seed=seed)) as counts,
            ):
                async for count in counts:
                    arrivals.append(time.perf_counter())
                    tokens += count
        except TargetError as error:
            outcome = error.code
            pause_s = min(PAUSE_MAX_S, error.retry_after_s or PAUSE_S)
        except TimeoutError:
            outcome, pause_s = "timeout", PAUSE_S
        ended = time.perf_counter()
        ending = None if outcome else self.target.ending
        sample = Sample(
            client=self.number,
            turn=turn,
            began_s=asked - began,
            ttft_ms=(arrivals[0] - asked) * 1000 if arrivals else None,
            gaps_ms=[(after - before) * 1000 for before, after in pairwise(arrivals)],
            total_ms=(ended - asked) * 1000,
            tokens=ending.tokens if ending is not None and ending.tokens is not None else tokens,
            prompt_tokens=ending.prompt_tokens if ending is not None else None,
            outcome=outcome or (ending.outcome if ending is not None else "length"),
        )
        return sample, pause_s


@asynccontextmanager
async def _closing(counts: AsyncIterator[int]) -> AsyncIterator[AsyncIterator[int]]:
    """Leave the iteration for good, at once, where it is a generator."""
    try:
        yield counts
    finally:
        close = getattr(counts, "aclose", None)
        if close is not None:
            await close()
