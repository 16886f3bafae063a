"""A result as one HTML page that needs nothing else: no network, no script. Knows results, no files."""

from collections.abc import Callable, Iterator, Sequence
from html import escape

from appliance.bench.charts import STYLE as CHART_STYLE
from appliance.bench.charts import Series, line_chart
from appliance.bench.results import Result, Run, kinds_of
from appliance.bench.roofline import Roofline
from appliance.bench.samples import Level, Percentiles
from appliance.bench.tables import LEFT_COLUMNS, LEVEL_COLUMNS, level_cells, roofline_line

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; --text: #1c2128; --faint: #57606a; --grid: #d8dee4;
  --s0: #0b62d6; --s1: #b45309; --s2: #047857; --s3: #a21caf; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --card: #1d2128; --text: #e6e9ee; --faint: #a3adb8; --grid: #363c45;
    --s0: #6cb0ff; --s1: #f5a742; --s2: #4ad6a0; --s3: #e48bf0; } }
body { margin: 0 auto; max-width: 1040px; padding: 24px 16px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 28px 0 8px; }
h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 4px 0; } .faint { color: var(--faint); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }
.card { background: var(--card); border-radius: 8px; padding: 14px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } .left { text-align: left; }
td.wide { white-space: normal; text-align: left; }
.bar { height: 18px; border-radius: 4px; background: var(--grid); overflow: hidden; margin: 8px 0; }
.bar div { height: 100%; background: var(--s0); }
"""
TTFT_PARTS = ("p50", "p95", "max")
GAP_PARTS = ("p50", "p95", "p99")


def html_report(result: Result) -> str:
    """The whole page."""
    model = result.server.model
    body = [
        f"<h1>{escape(model.id)}</h1>",
        f'<p class="faint">appliance bench, {escape(result.created_at)}, {escape(result.url)}, seed {result.seed}</p>',
        "<h2>Throughput</h2>",
        f'<div class="charts">{_throughput(result)}{_roofline_card(result.roofline)}</div>',
        *(
            _kind_section(kind, [level for level in result.levels if level.kind == kind])
            for kind in kinds_of(result.levels)
        ),
        "<h2>Figures</h2>",
        _figures(result),
        "<h2>How it was measured</h2>",
        _facts(result),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(model.id)}: appliance bench</title>\n"
        f"<style>{STYLE}{CHART_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _throughput(result: Result) -> str:
    levels = result.levels
    clients = sorted({level.concurrency for level in levels})
    found = {(str(level.kind), level.concurrency): level.tokens_per_s for level in levels}
    series = [Series(kind, [found.get((kind, count)) for count in clients]) for kind in kinds_of(levels)]
    return _card("Tokens a second, all clients together", "tokens/s", clients, series)


def _kind_section(kind: str, levels: Sequence[Level]) -> str:
    ordered = sorted(levels, key=lambda level: level.concurrency)
    clients = [level.concurrency for level in ordered]
    ttft = _percentile_series(ordered, lambda level: level.ttft_ms, TTFT_PARTS)
    gaps = _percentile_series(ordered, lambda level: level.gap_ms, GAP_PARTS)
    return (
        f'<h2>{escape(kind.capitalize())}</h2><div class="charts">'
        + _card("Time to first token", "ms", clients, ttft)
        + _card("Time between tokens", "ms", clients, gaps)
        + "</div>"
    )


def _percentile_series(
    levels: Sequence[Level], of: Callable[[Level], Percentiles | None], parts: Sequence[str]
) -> list[Series]:
    return [
        Series(part, [None if (found := of(level)) is None else getattr(found, part) for level in levels])
        for part in parts
    ]


def _card(title: str, unit: str, clients: Sequence[int], series: Sequence[Series]) -> str:
    chart = line_chart(title, unit, "clients", [str(count) for count in clients], series)
    return f'<div class="card"><h3>{escape(title)}</h3>{chart}</div>'


def _roofline_card(roofline: Roofline) -> str:
    bar = ""
    if roofline.share is not None:
        bar = f'<div class="bar"><div style="width:{min(1.0, roofline.share):.1%}"></div></div>'
    return (
        '<div class="card"><h3>Share of the memory’s bandwidth that reading the weights takes, one client</h3>'
        f'{bar}<p>{escape(roofline_line(roofline))}</p><p class="faint">{escape(roofline.how)}</p></div>'
    )


def _figures(result: Result) -> str:
    head = "".join(f"<th{_left(column)}>{escape(column)}</th>" for column in LEVEL_COLUMNS)
    rows = []
    for level in result.levels:
        pairs = zip(LEVEL_COLUMNS, level_cells(level), strict=True)
        rows.append("<tr>" + "".join(f"<td{_left(column)}>{escape(cell)}</td>" for column, cell in pairs) + "</tr>")
    failures = [
        f"<p>{escape(level.kind)}, {level.concurrency} clients, failed: "
        + escape(", ".join(f"{count} × {code}" for code, count in level.errors.items()))
        + "</p>"
        for level in result.levels
        if level.errors
    ]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="card scroll">{table}{"".join(failures)}<p class="faint">Times in milliseconds.</p></div>'


def _left(column: str) -> str:
    return ' class="left"' if column in LEFT_COLUMNS else ""


def _facts(result: Result) -> str:
    rows = "".join(
        f'<tr><th class="left">{escape(name)}</th><td class="wide">{escape(value)}</td></tr>'
        for name, value in _fact_rows(result)
    )
    return f'<div class="card scroll"><table>{rows}</table></div>'


def _fact_rows(result: Result) -> Iterator[tuple[str, str]]:
    host, server = result.host, result.server
    yield "load", _load(result.runs[0])
    yield "model", f"{server.model.id}, {server.model.quantization}, digest {server.model.digest[:16]}"
    yield "appliance", f"{server.version}, pipeline {server.engine.pipeline}" + _packages(server.engine.versions or {})
    settings = ", ".join(f"{name} = {value}" for name, value in server.engine.settings.items())
    yield "engine settings", settings or "not told"
    yield "engine’s ISA cap", server.engine.isa_cap or "none"
    yield "measured from", "the same machine" if result.same_host else "another machine, which is the one below"
    yield (
        "CPU",
        f"{host.cpu_model or 'unknown'}, {host.cores_usable} usable, governor {host.governor or 'unknown'}",
    )
    yield "CPU flags", " ".join(host.flags) or "unknown"
    yield "memory", f"{host.memory_bytes / 2**30:.1f} GiB"
    if host.memory_bandwidth is not None:
        yield "memory bandwidth", f"{host.memory_bandwidth.gb_per_s:.1f} GB/s, {host.memory_bandwidth.method}"
    yield "software", f"Linux {host.kernel}, Python {host.python}{_packages(host.packages)}"


def _load(run: Run) -> str:
    """What all levels have in common."""
    workload = run.workload
    bounds = [] if run.requests is None else [f"{run.requests} requests"]
    bounds += [] if run.duration_s is None else [f"{run.duration_s:g} s"]
    return (
        f"closed loop; {' or '.join(bounds)} a client and level, after {run.warm_up} to warm up; prompts of "
        f"{workload.prompt_tokens} tokens, answers of at most {workload.output_tokens}, greedy; shared prefix "
        f"{workload.shared_prefix:g}, think time {workload.think_s:g} s"
    )


def _packages(versions: dict[str, str] | dict[str, str | None]) -> str:
    return "".join(f", {name} {version}" for name, version in versions.items() if version is not None)
