"""Figures as tables: coloured on a terminal, aligned plain text elsewhere. Computes nothing."""

from collections.abc import Collection, Sequence
from typing import TextIO

from appliance.bench.compare import Comparison
from appliance.bench.results import Result
from appliance.bench.roofline import Roofline
from appliance.bench.samples import Level, Percentiles

LEVEL_COLUMNS = (
    "kind", "clients", "requests", "failed", "tokens/s", "TTFT p50", "p95", "max", "gap p50", "p95", "p99",
    "ms/token", "total p50",
)  # fmt: skip
LEFT_COLUMNS = {"kind", "metric", "better", "code"}


def level_cells(level: Level) -> list[str]:
    """One row of LEVEL_COLUMNS; times are milliseconds."""
    ttft, gap = level.ttft_ms, level.gap_ms
    return [
        level.kind,
        str(level.concurrency),
        str(level.requests),
        str(level.failed),
        f"{level.tokens_per_s:.1f}",
        *(_ms(ttft, part) for part in ("p50", "p95", "max")),
        *(_ms(gap, part) for part in ("p50", "p95", "p99")),
        _ms(level.tpot_ms, "p50"),
        _ms(level.total_ms, "p50"),
    ]


def print_result(result: Result, out: TextIO) -> None:
    """All levels, what failed, the roofline."""
    model = result.server.model
    print(f"{model.id} at {result.url}; times in ms, seed {result.seed}", file=out)
    print_table(LEVEL_COLUMNS, [level_cells(level) for level in result.levels], out)
    for level in result.levels:
        if level.errors:
            codes = ", ".join(f"{count} × {code}" for code, count in level.errors.items())
            print(f"{level.kind}, {level.concurrency} clients, failed: {codes}", file=out)
    print(roofline_line(result.roofline), file=out)


def roofline_line(roofline: Roofline) -> str:
    """One line for people."""
    if roofline.share is None:
        return f"roofline share: left out, {roofline.why_not}"
    weights_mb = (roofline.weights_read_bytes or 0) / 1e6
    return (
        f"roofline share: {roofline.share:.0%} = {weights_mb:.0f} MB a token × {roofline.tokens_per_s:.1f} tokens/s "
        f"÷ {roofline.gb_per_s:.1f} GB/s"
    )


def print_comparison(comparison: Comparison, out: TextIO) -> None:
    """The ratios; warnings are the caller's to tell."""
    rows = [
        [
            row.kind,
            str(row.concurrency),
            row.metric,
            _figure(row.a),
            _figure(row.b),
            "-" if row.ratio is None else f"{row.ratio:.3f}",
            row.better,
        ]
        for row in comparison.rows
    ]
    print_table(("kind", "clients", "metric", "A", "B", "B/A", "better"), rows, out)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, left_columns: Collection[str] = LEFT_COLUMNS
) -> None:
    """A table: rich on a terminal, else two spaces between aligned columns; those of text begin at the left."""
    if out.isatty():
        _print_rich(columns, rows, out, left_columns)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for cells in (columns, *rows):
        aligned = (
            cell.ljust(width) if column in left_columns else cell.rjust(width)
            for column, cell, width in zip(columns, cells, widths, strict=True)
        )
        print("  ".join(aligned).rstrip(), file=out)


def _print_rich(
    columns: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, left_columns: Collection[str]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column in left_columns
        table.add_column(column, justify="left" if left else "right", style="cyan" if left else "", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    Console(file=out).print(table)


def _ms(found: Percentiles | None, part: str) -> str:
    return "-" if found is None else _figure(getattr(found, part))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"
