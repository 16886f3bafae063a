"""One run from its plan to its files. Opens the contenders, has all parts measured and judged, computes nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from appliance.bench.host import describe_host
from benchmarks import chats, memory, prefills
from benchmarks.cells import BARE, CELLS, DAEMON, Q4_0
from benchmarks.contenders import Daemon, open_bare_loop, open_daemon
from benchmarks.measuring import SEEDS_PER_CELL, Openers, rotated, run_cell
from benchmarks.preparing import Plan, Prepared, llama_openers, method, prepare, say
from benchmarks.report import markdown, show
from benchmarks.results import Results
from benchmarks.targets import judge

WITHOUT_DRAFTS = {"engine.prompt_lookup": "off"}  # the bare loop is the pipeline as it comes
CHAT_ROUNDS = {DAEMON: 2, BARE: 1, Q4_0: 1}


async def run(plan: Plan) -> Results:
    """Measure all parts of the plan, print the tables and write the files.

    Raises BenchmarkError where something can't be prepared or started, or a contender goes; what was started is ended.
    """
    prepared = await prepare(plan)
    say("measuring how fast this machine reads memory")
    host = await asyncio.to_thread(describe_host)
    began = time.monotonic()
    appliance = prepared.appliance()
    results = Results(began_at=datetime.now(UTC), host=host, method=method(plan, prepared, appliance))
    if set(plan.names) != {prefills.NAME}:
        await _run_beside_each_other(plan, prepared, results)
    if prefills.NAME in plan.names:
        await _run_prefills(plan, prepared, results)
    results.wall_s = time.monotonic() - began
    results.verdicts = judge(results, appliance.settings.engine.max_num_batched_tokens)
    show(results, Console())
    if plan.output is not None:
        write(results, plan.output)
    return results


def write(results: Results, directory: Path) -> None:
    """The page and the JSON, named by date and time."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{results.began_at:%Y-%m-%d-%H%M}"
    stem.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    stem.with_suffix(".md").write_text(markdown(results))
    say(f"written: {stem}.md and .json")


async def _run_beside_each_other(plan: Plan, prepared: Prepared, results: Results) -> None:
    async with contextlib.AsyncExitStack() as stack:
        say("starting the daemon and the bare loop")
        daemon = await stack.enter_async_context(open_daemon(prepared.appliance(), prepared.logs / "daemon.log"))
        alone = prepared.appliance(WITHOUT_DRAFTS)
        bare = await stack.enter_async_context(open_bare_loop(alone, prepared.logs / "bare-loop.log"))
        openers: Openers = {
            DAEMON: lambda _: contextlib.nullcontext(daemon),
            BARE: lambda _: contextlib.nullcontext(bare),
            **llama_openers(prepared, prepared.variants(), results.method.threads),
        }
        for number, cell in enumerate(CELLS):
            if cell.name in plan.names:
                some = msgspec.structs.replace(cell, rounds=plan.rounds or cell.rounds)
                results.cells.append(await run_cell(some, openers, _seed(plan, number), say))
        if chats.NAME in plan.names:
            await _run_chats(plan, openers, results)
        if memory.NAME in plan.names:
            kv_cache_tokens = prepared.appliance().settings.engine.kv_cache_tokens
            seed = _seed(plan, len(CELLS) + 2)
            results.memory_bytes = await memory.run_memory(daemon, kv_cache_tokens, seed, say)


async def _run_chats(plan: Plan, openers: Openers, results: Results) -> None:
    names = [name for name in CHAT_ROUNDS if name in openers]
    async with contextlib.AsyncExitStack() as stack:
        contenders = {name: await stack.enter_async_context(openers[name](1)) for name in names}
        for number in range(max(CHAT_ROUNDS.values())):
            for name in rotated(names, number):
                if number < (plan.rounds or CHAT_ROUNDS[name]):
                    seed = _seed(plan, len(CELLS)) + 3 * number
                    results.chats.append(await chats.run_chat(contenders[name], seed, say))


async def _run_prefills(plan: Plan, prepared: Prepared, results: Results) -> None:
    for number in range(plan.rounds or prefills.ROUNDS):
        for size in prefills.BATCHED_TOKENS:
            async with _daemon_with_steps_of(prepared, size) as daemon:
                seed = _seed(plan, len(CELLS) + 1) + prefills.TRIES * number
                results.prefills.append(await prefills.run_prefill(daemon, size, seed, say))


@contextlib.asynccontextmanager
async def _daemon_with_steps_of(prepared: Prepared, batched_tokens: int) -> AsyncIterator[Daemon]:
    appliance = prepared.appliance({"engine.max_num_batched_tokens": batched_tokens})
    async with open_daemon(appliance, prepared.logs / "daemon-prefill.log") as daemon:
        yield daemon


def _seed(plan: Plan, part: int) -> int:
    """The first of a part's seeds: no two parts, nor runs of different seeds, ask the same."""
    return plan.seed * 100 * SEEDS_PER_CELL + part * SEEDS_PER_CELL
