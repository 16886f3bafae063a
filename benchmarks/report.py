"""A run's results for people: tables on a terminal, the same as a Markdown page. Knows results, measures nothing."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from appliance.bench.samples import Level
from benchmarks.cells import DAEMON
from benchmarks.results import CellResult, ChatRun, Results, Verdict
from benchmarks.targets import MB, Figure, tokens_per_s, tpot_p50_ms, ttft_max_ms, ttft_p50_ms

COLUMNS: Sequence[tuple[str, Figure, int]] = (
    ("tokens/s", tokens_per_s, 1),
    ("TTFT p50, ms", ttft_p50_ms, 0),
    ("TTFT worst, ms", ttft_max_ms, 0),
    ("ms a token", tpot_p50_ms, 1),
)
NOTHING = "–"
FILE_COLUMNS = 180


class Rows(Struct, frozen=True, kw_only=True):
    """One table."""

    title: str
    texts: int = 1
    """Columns of text, which come first; the rest are figures."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(results: Results) -> Iterator[Rows]:
    """All tables of a run; those of parts that were not run are left out."""
    if results.cells:
        yield _cells(results.cells)
    if results.chats:
        yield _chats(results.chats)
    if results.prefills:
        yield _prefills(results)
    if results.verdicts:
        yield _verdicts(results.verdicts)


def show(results: Results, console: Console) -> None:
    """Print the tables; in full width where nobody's terminal sets one."""
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    for rows in tables(results):
        table = Table(title=rows.title, title_justify="left", title_style="bold")
        for number, name in enumerate(rows.header):
            table.add_column(name, justify="left" if number < rows.texts else "right", overflow="fold")
        for row in rows.rows:
            table.add_row(*row)
        console.print(table)


def markdown(results: Results) -> str:
    """The page: what was run, on what, and the tables."""
    parts = [f"# Benchmark of {results.began_at:%Y-%m-%d}", *_method(results)]
    for rows in tables(results):
        lines = [f"## {rows.title}", "", _line(rows.header), _rule(rows)]
        parts.append("\n".join([*lines, *(_line(row) for row in rows.rows)]))
    return "\n\n".join(parts) + "\n"


def _rule(rows: Rows) -> str:
    return _line(["---" if number < rows.texts else "---:" for number in range(len(rows.header))])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and in brackets least and most where there are several."""
    if not values:
        return NOTHING
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def _cells(cells: Sequence[CellResult]) -> Rows:
    rows = []
    for result in cells:
        names = [name for name in result.cell.contenders if any(name in turn.levels for turn in result.rounds)]
        for name in names:
            levels = [turn.levels[name] for turn in result.rounds if name in turn.levels]
            figures = [spread(_figures(levels, figure), digits) for _, figure, digits in COLUMNS]
            rows.append(
                [
                    result.cell.name,
                    name + _failures(levels),
                    *figures,
                    _advantage(result, name, ttft_p50_ms),
                    _advantage(result, name, tokens_per_s),
                ]
            )
    header = ["cell", "contender", *(name for name, _, _ in COLUMNS), "daemon's TTFT ÷", "daemon's tokens/s ÷"]
    return Rows(title="Cells: median of the rounds (least–most)", texts=2, header=header, rows=rows)


def _figures(levels: Sequence[Level], figure: Figure) -> list[float]:
    return [value for level in levels if (value := figure(level)) is not None]


def _failures(levels: Sequence[Level]) -> str:
    failed = sum(level.failed for level in levels)
    return f" ({failed} requests failed)" if failed else ""


def _advantage(result: CellResult, name: str, figure: Callable[[Level], float | None]) -> str:
    """The daemon's figure over this contender's: the median over the rounds."""
    if name == DAEMON:
        return NOTHING
    found = []
    for turn in result.rounds:
        levels = turn.levels
        if DAEMON in levels and name in levels:
            ours, theirs = figure(levels[DAEMON]), figure(levels[name])
            if ours is not None and theirs:
                found.append(ours / theirs)
    return spread(found, 2)


def _chats(chats: Sequence[ChatRun]) -> Rows:
    turns = len(chats[0].turns)
    header = [
        "contender",
        *(f"turn {number}" for number in range(1, turns + 1)),
        "fresh, as long",
        "fresh, question alone",
    ]
    rows = []
    for run in chats:
        times = [f"{turn.ttft_ms:.0f}" if turn.ttft_ms is not None else NOTHING for turn in run.turns]
        fresh = [f"{level.ttft_ms.p50:.0f}" if level.ttft_ms else NOTHING for level in (run.fresh, run.fresh_question)]
        span = f"{run.turns[0].prompt_tokens} to {run.turns[-1].prompt_tokens} prompt tokens, {run.new_tokens} new"
        rows.append([f"{run.contender}, {span}", *times, *fresh])
    return Rows(title="Chat: TTFT of each turn beside that of fresh chats, ms", header=header, rows=rows)


def _prefills(results: Results) -> Rows:
    rows = []
    for size in sorted({run.max_num_batched_tokens for run in results.prefills}):
        runs = [run for run in results.prefills if run.max_num_batched_tokens == size]
        rows.append(
            [
                str(size),
                spread([run.stall_ms for run in runs], 0),
                spread([run.gap_before_ms for run in runs], 0),
                spread([run.ttft_ms for run in runs], 0),
            ]
        )
    tokens = results.prefills[0].prompt_tokens
    return Rows(
        title=f"A prompt of {tokens:,} tokens beside a stream",
        header=["engine.max_num_batched_tokens", "largest gap, ms", "gap before, ms", "TTFT of the prompt, ms"],
        rows=rows,
    )


def _verdicts(verdicts: Sequence[Verdict]) -> Rows:
    rows = []
    for verdict in verdicts:
        digits = 0 if verdict.unit in ("MB", "ms") and verdict.bound >= 50 else 1 if verdict.unit else 2
        unit = f" {verdict.unit}" if verdict.unit else ""
        outcome = "not measured" if verdict.met is None else "met" if verdict.met else "MISSED"
        rows.append([verdict.name, f"{verdict.sense} {verdict.bound:g}{unit}", spread(verdict.rounds, digits), outcome])
    return Rows(
        title="Targets", texts=2, header=["target", "bound", "median of the rounds (least–most)", "outcome"], rows=rows
    )


def _method(results: Results) -> Iterator[str]:
    host, method = results.host, results.method
    bandwidth = host.memory_bandwidth
    read = f"; reads {bandwidth.gb_per_s:.1f} GB/s ({bandwidth.method})" if bandwidth is not None else ""
    packages = ", ".join(f"{name} {version}" for name, version in host.packages.items() if version)
    minutes = results.wall_s / 60
    yield "\n".join(
        [
            f"`make bench`, {results.began_at:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes, seed {method.seed}"
            + (f", commit {method.commit}" if method.commit else "")
            + ". How it measures: [README](../README.md).",
            "",
            f"- Host: {host.cpu_model}, {host.cores_usable} cores, {host.memory_bytes / 1e9:.0f} GB{read}; "
            f"governor {host.governor or 'not told'}; Linux {host.kernel}, Python {host.python}, {packages}.",
            f"- Arithmetic: ONEDNN_MAX_CPU_ISA={method.isa_cap}, precision f32, {method.threads} threads.",
            f"- Model: {method.gguf} (SHA-256 {method.gguf_sha256[:16]}…); the daemon's import of it: "
            f"{method.quantization}; digest {method.model_digest[:16]}….",
            f"- Daemon: {', '.join(f'{name} {value}' for name, value in method.engine.items())}.",
            *_llama(results),
            *_memory(results),
        ]
    )


def _llama(results: Results) -> Iterator[str]:
    llama = results.method.llama
    if llama is None:
        return
    yield f"- llama.cpp: the source in {llama.package}, {llama.compiler}, {' '.join(llama.flags)}."
    for name, options in llama.options.items():
        yield f"- {name}: as many slots as clients, `{' '.join(options)}`."


def _memory(results: Results) -> Iterator[str]:
    parts = [f"{role} {size / MB:.0f} MB" for role, size in results.memory_bytes.items()]
    if parts:
        yield f"- Resident after the KV cache was used from end to end: {', '.join(parts)}."
