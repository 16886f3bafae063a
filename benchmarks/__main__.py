"""`python -m benchmarks`: what to measure, from the command line. Knows no contender."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.errors import ConfigError
from benchmarks import chats, memory, prefills
from benchmarks.cells import CELLS
from benchmarks.errors import BenchmarkError
from benchmarks.preparing import Plan
from benchmarks.running import run
from benchmarks.tuning import tune_llama

NAMES = [*(cell.name for cell in CELLS), chats.NAME, memory.NAME, prefills.NAME]
RESULTS = Path(__file__).with_name("results")
SIGINT_STATUS = 130


def main(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Parts to run, else all but the last: {', '.join(NAMES)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of each cell; 0 takes the cell's own number.")] = 0,
    long_prefill: Annotated[bool, typer.Option(help=f"{prefills.NAME} too: the daemon is restarted for it.")] = False,
    without_llama: Annotated[bool, typer.Option(help="Leave llama.cpp out, and its build.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune-llama", help="Compare llama.cpp's own flags, and nothing else.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="A store with the import; else one is made in the cache.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's id in --store.")] = None,
    output: Annotated[
        Path | None, typer.Option(help=f"Where a page and JSON go; a whole run: {RESULTS.name}/.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all texts.")] = 1,
) -> None:
    """Measure the daemon beside the bare pipeline and llama.cpp, interleaved, with the targets met or missed.

    APPLIANCE_TEST_GGUF names the model: a GGUF file, Q4_K_M of Qwen2.5 0.5B Instruct.
    """
    names = _chosen(only or [], long_prefill)
    whole = not only and not rounds and not without_llama
    plan = Plan(
        names=names,
        rounds=rounds,
        with_llama=not without_llama,
        store=store,
        model=model,
        output=output or (RESULTS if whole else None),
        seed=seed,
    )
    try:
        asyncio.run(tune_llama(plan) if tune else run(plan))
    except (BenchmarkError, ConfigError) as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(SIGINT_STATUS) from None


def _chosen(only: list[str], long_prefill: bool) -> list[str]:
    """The parts that are run, in order. Raises BadParameter for one that there is not."""
    wanted = {part.strip() for value in only for part in value.split(",")}
    unknown = wanted.difference(NAMES)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: no such part; there are {', '.join(NAMES)}")
    if not wanted:
        wanted = {name for name in NAMES if name != prefills.NAME}
    if long_prefill:
        wanted.add(prefills.NAME)
    return [name for name in NAMES if name in wanted]


if __name__ == "__main__":
    typer.run(main)
