"""Two results side by side: ratios, which is better, and what makes them hard to compare. Reads no files."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from appliance.bench.results import Result, Run
from appliance.bench.samples import Level, Percentiles

EVEN = 0.03  # a difference below this is the noise of a quiet machine
BANDWIDTH_NOISE = 0.15


class Metric(Struct, frozen=True):
    """One figure of a level."""

    name: str
    more_is_better: bool
    of: Callable[[Level], float | None]


class Row(Struct, frozen=True, kw_only=True):
    """One metric of one level in both results."""

    kind: str
    concurrency: int
    metric: str
    a: float
    b: float
    ratio: float | None
    """B ÷ A; None where A is 0."""
    better: Literal["A", "B", "even"]


class Comparison(Struct, frozen=True, kw_only=True):
    """All rows, and what to know when reading them."""

    rows: list[Row]
    warnings: list[str]


def _part(of: Callable[[Level], Percentiles | None], part: str) -> Callable[[Level], float | None]:
    def figure(level: Level) -> float | None:
        found = of(level)
        return None if found is None else float(getattr(found, part))

    return figure


METRICS = (
    Metric("tokens/s", True, lambda level: level.tokens_per_s),
    Metric("TTFT p50 ms", False, _part(lambda level: level.ttft_ms, "p50")),
    Metric("TTFT p95 ms", False, _part(lambda level: level.ttft_ms, "p95")),
    Metric("TTFT max ms", False, _part(lambda level: level.ttft_ms, "max")),
    Metric("gap p50 ms", False, _part(lambda level: level.gap_ms, "p50")),
    Metric("gap p99 ms", False, _part(lambda level: level.gap_ms, "p99")),
    Metric("ms a token p50", False, _part(lambda level: level.tpot_ms, "p50")),
    Metric("total p50 ms", False, _part(lambda level: level.total_ms, "p50")),
    Metric("failed", False, lambda level: float(level.failed)),
)


def compare(a: Result, b: Result) -> Comparison:
    """`b` against `a`, for the levels that both have."""
    runs_a, runs_b = _by_level(a), _by_level(b)
    rows = [
        row
        for key, run in runs_a.items()
        if key in runs_b
        for metric in METRICS
        if (row := _row(metric, run.level, runs_b[key].level)) is not None
    ]
    return Comparison(rows=rows, warnings=[*_differences(a, b), *_missing(runs_a, runs_b)])


def _row(metric: Metric, a: Level, b: Level) -> Row | None:
    of_a, of_b = metric.of(a), metric.of(b)
    if of_a is None or of_b is None:
        return None
    return Row(
        kind=a.kind,
        concurrency=a.concurrency,
        metric=metric.name,
        a=of_a,
        b=of_b,
        ratio=of_b / of_a if of_a else None,
        better=_better(of_a, of_b, more_is_better=metric.more_is_better),
    )


def _better(a: float, b: float, *, more_is_better: bool) -> Literal["A", "B", "even"]:
    if abs(b - a) <= EVEN * max(abs(a), abs(b)):
        return "even"
    return "B" if (b > a) == more_is_better else "A"


def _by_level(result: Result) -> dict[tuple[str, int], Run]:
    return {(run.level.kind, run.level.concurrency): run for run in result.runs}


def _missing(a: dict[tuple[str, int], Run], b: dict[tuple[str, int], Run]) -> Iterator[str]:
    for name, keys in (("A", a.keys() - b.keys()), ("B", b.keys() - a.keys())):
        if keys:
            levels = ", ".join(f"{kind} at {concurrency}" for kind, concurrency in sorted(keys))
            yield f"only {name} has {levels}"
    for key in a.keys() & b.keys():
        for what, value_a, value_b in _workload_differences(a[key], b[key]):
            yield f"workloads differ in {what} ({key[0]} at {key[1]}): {value_a} and {value_b}"


def _workload_differences(a: Run, b: Run) -> Iterator[tuple[str, Any, Any]]:
    """The seed apart: other texts of the same kind and length are the same load."""
    for name in ("prompt_tokens", "output_tokens", "shared_prefix", "think_s"):
        pair = getattr(a.workload, name), getattr(b.workload, name)
        if pair[0] != pair[1]:
            yield name, *pair
    for name in ("warm_up", "requests", "duration_s"):
        pair = getattr(a, name), getattr(b, name)
        if pair[0] != pair[1]:
            yield name, *pair


def _differences(a: Result, b: Result) -> Iterator[str]:
    for what in ("cpu_model", "flags", "cores_usable", "governor", "memory_bytes", "kernel", "python", "packages"):
        yield from _unlike(f"hosts differ in {what}", getattr(a.host, what), getattr(b.host, what))
    speeds = [bandwidth.gb_per_s for host in (a.host, b.host) if (bandwidth := host.memory_bandwidth) is not None]
    if len(speeds) == 2 and max(speeds) > min(speeds) * (1 + BANDWIDTH_NOISE):
        yield f"hosts differ in memory bandwidth, GB/s: {speeds[0]:.1f} and {speeds[1]:.1f}"
    yield from _unlike("models differ", a.server.model.id, b.server.model.id)
    yield from _unlike("models differ in digest", a.server.model.digest, b.server.model.digest)
    yield from _unlike("appliances differ in version", a.server.version, b.server.version)
    engines = [msgspec.to_builtins(server.engine) for server in (a.server, b.server)]
    for what in ("pipeline", "versions", "isa_cap"):
        yield from _unlike(f"engines differ in {what}", engines[0][what], engines[1][what])
    settings = [engine["settings"] for engine in engines]
    for name in sorted(settings[0].keys() | settings[1].keys()):
        yield from _unlike(f"engines differ in engine.{name}", settings[0].get(name), settings[1].get(name))


def _unlike(what: str, a: Any, b: Any) -> Iterator[str]:
    if a != b:
        yield f"{what}: {_shown(a)} and {_shown(b)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "unknown" if value is None or value == "" else str(value)
