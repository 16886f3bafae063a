"""What a long prompt of one client does to another's stream, by engine.max_num_batched_tokens. Knows the daemon."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from statistics import median

from appliance.bench.workload import Workload, messages
from appliance.client import connect
from benchmarks.contenders import Daemon, DaemonTarget
from benchmarks.errors import BenchmarkError
from benchmarks.measuring import Say
from benchmarks.results import PrefillRun

NAME = "long-prefill"
BATCHED_TOKENS = (32, 48, 64, 96, 128, 256)
ROUNDS = 3
STREAM_TOKENS = 600  # more than comes while the prompt is computed
STREAM_BEFORE = 12  # arrivals, for the gap without the prompt
PROMPT_TOKENS = 2000
TIMEOUT_S = 300.0
TRIES = 3  # a stream may end by itself


async def run_prefill(daemon: Daemon, batched_tokens: int, seed: int, say: Say) -> PrefillRun:
    """A stream, a long prompt beside it, and the stream's gaps until that prompt's first token.

    `batched_tokens`: what the daemon was started with. Raises BenchmarkError where the stream never lasts that long.
    """
    for attempt in range(TRIES):
        async with (
            asyncio.timeout(TIMEOUT_S),
            connect(daemon.url) as reader,
            connect(daemon.url) as writer,
            asyncio.TaskGroup() as group,
        ):
            stream = _Stream(DaemonTarget(reader), seed + attempt)
            reading = group.create_task(stream.read())
            await stream.under_way.wait()
            asked, first, prompt_tokens = await _long_prompt(DaemonTarget(writer), seed + attempt)
            lasted = not reading.done()
            reading.cancel()
        if lasted:
            run = PrefillRun(
                max_num_batched_tokens=batched_tokens,
                prompt_tokens=prompt_tokens,
                stall_ms=max(gaps_ms(stream.arrivals, asked, first)),
                gap_before_ms=median(gaps_ms(stream.arrivals, 0, asked)),
                ttft_ms=(first - asked) * 1000,
            )
            say(
                f"{NAME}  {batched_tokens} tokens a step: stall {run.stall_ms:.0f} ms (gaps of {run.gap_before_ms:.0f} "
                f"before), TTFT of {prompt_tokens} prompt tokens {run.ttft_ms:.0f} ms"
            )
            return run
    raise BenchmarkError(f"{TRIES} streams ended before the long prompt beside them was computed")


def gaps_ms(arrivals: Sequence[float], begin: float, end: float) -> list[float]:
    """Milliseconds between the arrivals (in seconds) whose gap reaches into begin to end; the last may be open."""
    pairs = [*itertools.pairwise(arrivals)]
    if arrivals and arrivals[-1] < end:
        pairs.append((arrivals[-1], end))
    return [(after - before) * 1000 for before, after in pairs if after > begin and before < end]


class _Stream:
    """An answer that is read for its arrivals alone."""

    def __init__(self, target: DaemonTarget, seed: int) -> None:
        self.arrivals: list[float] = []
        self._target = target
        self._workload = Workload(kind="free", prompt_tokens=40, output_tokens=STREAM_TOKENS, seed=seed)
        self.under_way = asyncio.Event()
        """Set when STREAM_BEFORE arrivals have been seen, or none will be."""

    async def read(self) -> None:
        """To the end, or until this is cancelled."""
        prompt = messages(self._workload, 0, 0)
        counts = self._target.ask(prompt, max_tokens=STREAM_TOKENS, seed=0)
        try:
            async with contextlib.aclosing(counts) as stream:
                async for _ in stream:
                    self.arrivals.append(time.perf_counter())
                    if len(self.arrivals) == STREAM_BEFORE:
                        self.under_way.set()
        finally:
            self.under_way.set()  # or over


async def _long_prompt(target: DaemonTarget, seed: int) -> tuple[float, float, int]:
    """When it was asked, when its first token came, and its length."""
    workload = Workload(kind="free", prompt_tokens=PROMPT_TOKENS, output_tokens=2, seed=seed)
    prompt = messages(workload, 1, 0)
    asked = time.perf_counter()
    first: float | None = None
    async for _ in target.ask(prompt, max_tokens=2, seed=0):
        first = first or time.perf_counter()
    ending = target.ending
    if first is None or ending is None or ending.prompt_tokens is None:
        raise BenchmarkError("the long prompt brought no token")
    return asked, first, ending.prompt_tokens
