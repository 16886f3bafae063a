"""Cells run on contenders in turn, so that a noisy machine is fair to all. Knows no process and judges nothing."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from appliance.bench.samples import Level, Sample
from appliance.bench.workload import Workload
from benchmarks.cells import RARE, Cell
from benchmarks.contenders import Contender, Daemon
from benchmarks.results import CellResult, Round

Say = Callable[[str], None]
Openers: TypeAlias = Mapping[str, Callable[[int], contextlib.AbstractAsyncContextManager[Contender]]]
"""Each contender by name, opened for a number of clients."""

SEEDS_PER_CELL = 1000
WARM_UP = Workload(kind="free", prompt_tokens=33, output_tokens=8, seed=0)


async def run_cell(cell: Cell, openers: Openers, seed: int, say: Say) -> CellResult:
    """All rounds of a cell, on those of its contenders that `openers` has.

    Each round has texts of its own, the same for all contenders, and another one begins. Raises BenchmarkError.
    """
    names = [name for name in cell.contenders if name in openers]
    result = CellResult(cell=cell, rounds=[])
    async with contextlib.AsyncExitStack() as stack:
        contenders = {name: await stack.enter_async_context(openers[name](cell.concurrency)) for name in names}
        for contender in contenders.values():
            await contender.measure(with_seed(WARM_UP, seed + SEEDS_PER_CELL - 1), 1, 1)
        for number in range(cell.rounds):
            workload = Workload(
                kind=cell.kind, prompt_tokens=cell.prompt_tokens, output_tokens=cell.output_tokens, seed=seed + number
            )
            turn = Round()
            for name in rotated(names, number):
                if name in RARE and number > 0:
                    continue
                await _measure(contenders[name], cell, workload, turn)
                say(f"{cell.name} {number + 1}/{cell.rounds}  {describe(turn.levels[name])}")
            result.rounds.append(turn)
    return result


def with_seed(workload: Workload, seed: int) -> Workload:
    """The same load with other texts."""
    return Workload(
        kind=workload.kind, prompt_tokens=workload.prompt_tokens, output_tokens=workload.output_tokens, seed=seed
    )


def rotated(names: Sequence[str], by: int) -> list[str]:
    """`names`, beginning with another one each time: whoever comes first finds the machine cooler, say."""
    first = by % len(names) if names else 0
    return [*names[first:], *names[:first]]


def describe(level: Level) -> str:
    """One line for people."""
    ttft, tpot = level.ttft_ms, level.tpot_ms
    parts = [f"{level.target}: {level.tokens_per_s:.1f} tokens/s"]
    if ttft is not None:
        parts.append(f"TTFT {ttft.p50:.0f} ms (worst {ttft.max:.0f})")
    if tpot is not None:
        parts.append(f"{tpot.p50:.1f} ms a token")
    if level.failed:
        parts.append(f"{level.failed} of {level.requests} FAILED: {level.errors}")
    return ", ".join(parts)


async def _measure(contender: Contender, cell: Cell, workload: Workload, turn: Round) -> None:
    level, samples = await contender.measure(workload, cell.concurrency, cell.requests)
    turn.levels[contender.name] = level
    turn.prompt_tokens[contender.name] = _span(samples)
    if isinstance(contender, Daemon):
        turn.front = contender.front


def _span(samples: Sequence[Sample]) -> list[int]:
    lengths = [sample.prompt_tokens for sample in samples if sample.prompt_tokens is not None]
    return [min(lengths), max(lengths)] if lengths else []
