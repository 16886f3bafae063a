"""llama.cpp's server against itself, with one set of flags after another, so that its best is what is compared with."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from appliance.bench.host import describe_host
from benchmarks.cells import CELLS, Cell
from benchmarks.errors import BenchmarkError
from benchmarks.llama_options import TRIED, TRIED_NGRAM
from benchmarks.llama_server import Variant
from benchmarks.measuring import SEEDS_PER_CELL, run_cell
from benchmarks.preparing import Plan, Prepared, llama_openers, method, prepare, say
from benchmarks.report import show
from benchmarks.results import Results

CELLS_TRIED = ("prompt-249", "free", "clients-8")
CELL_TRIED_NGRAM = "grounded"


async def tune_llama(plan: Plan) -> Results:
    """Measure TRIED and TRIED_NGRAM on Q4_0, in turn, and print the tables; nothing is written.

    Raises BenchmarkError where something can't be prepared or started.
    """
    prepared = await prepare(plan)
    host = await asyncio.to_thread(describe_host)
    results = Results(began_at=datetime.now(UTC), host=host, method=method(plan, prepared, prepared.appliance()))
    for number, cell in enumerate(CELLS):
        if cell.name in CELLS_TRIED:
            variants = _variants(prepared, TRIED)
        elif cell.name == CELL_TRIED_NGRAM:
            variants = _variants(prepared, TRIED_NGRAM)
        else:
            continue
        some = _for(cell, variants, plan.rounds)
        openers = llama_openers(prepared, variants, results.method.threads)
        results.cells.append(await run_cell(some, openers, plan.seed + number * SEEDS_PER_CELL, say))
    show(results, Console())
    return results


def _variants(prepared: Prepared, tried: Mapping[str, tuple[str, ...]]) -> list[Variant]:
    if prepared.q4_0 is None:
        raise BenchmarkError("--tune-llama and --without-llama contradict each other: leave one out")
    return [Variant(name=name, model=prepared.q4_0, options=options) for name, options in tried.items()]


def _for(cell: Cell, variants: list[Variant], rounds: int) -> Cell:
    names = tuple(variant.name for variant in variants)
    return msgspec.structs.replace(cell, contenders=names, rounds=rounds or cell.rounds)
