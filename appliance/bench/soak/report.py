"""What a soak found: figures before and after, and what of them is a fault. Asks nobody."""

import math
from collections.abc import Iterator
from typing import TextIO

from msgspec import Struct

from appliance.bench.server import Metrics, Server
from appliance.bench.soak.checking import Findings

SCHEMA = "appliance-soak"
SCHEMA_VERSION = 1
WARM_S = 60.0  # memory counts from here on
RSS_GROWTH_MAX = 0.02  # from there to the end, in a soak that goes on for as long again


class Snapshot(Struct, frozen=True, kw_only=True):
    """The daemon at one moment, from /metrics."""

    at_s: float
    """Seconds from the beginning of the churn."""
    rss_front_bytes: float
    rss_engine_bytes: float
    running: float
    waiting: float
    connections: float
    kv_cache_usage_ratio: float | None
    """None where the engine can't tell."""
    engine_restarts: float
    engine_recycles: float = 0.0
    """Workers replaced while they were well: another one's memory can't be compared with theirs."""

    @property
    def idle(self) -> bool:
        """Whether nobody is there and nothing is done."""
        return not (self.running or self.waiting or self.connections)


def snapshot(metrics: Metrics, at_s: float) -> Snapshot:
    """What one scrape says. Raises ServerUnreadable where a metric is missing."""
    usage = metrics.value("appliance_kv_cache_usage_ratio")
    return Snapshot(
        at_s=at_s,
        rss_front_bytes=metrics.value("appliance_process_resident_memory_bytes"),
        rss_engine_bytes=metrics.value("appliance_engine_resident_memory_bytes"),
        running=metrics.value("appliance_requests_running"),
        waiting=metrics.value("appliance_requests_waiting"),
        connections=metrics.value("appliance_websocket_connections"),
        kv_cache_usage_ratio=None if math.isnan(usage) else usage,
        engine_restarts=sum(metrics.by_label("appliance_engine_restarts_total", "reason").values()),
        engine_recycles=sum(metrics.by_label("appliance_engine_recycles_total", "reason").values()),
    )


class SoakReport(Struct, frozen=True, kw_only=True):
    """Everything that a soak is judged by."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    created_at: str
    url: str
    server: Server
    seed: int
    minutes: float
    idle: Snapshot
    """Before the churn, after one answer."""
    warm: Snapshot
    """After the first minute, or half of a shorter soak; growth is from here."""
    end: Snapshot
    """After all clients have left, and one more answer."""
    history: list[Snapshot]
    counts: dict[str, int]
    errors: dict[str, int]
    """By code, those that were provoked among them."""
    violations: list[str]
    violation_count: int
    problems: list[str]
    """What is a fault; empty after a good soak."""

    @property
    def rss_growth(self) -> dict[str, float]:
        """By process, from `warm` to `end`."""
        return {name: growth for name, growth in _growth(self.warm, self.end) if growth is not None}


def find_problems(idle: Snapshot, warm: Snapshot, end: Snapshot, findings: Findings) -> list[str]:
    """In words, one line each."""
    return list(_problems(idle, warm, end, findings))


def _problems(idle: Snapshot, warm: Snapshot, end: Snapshot, findings: Findings) -> Iterator[str]:
    if findings.violation_count:
        yield f"the protocol was violated {findings.violation_count} times"
    if not findings.counts["whole answers"]:
        yield "no ordinary request was answered"
    for name in ("running", "waiting", "connections"):
        left = getattr(end, name) - getattr(idle, name)
        if left > 0:
            what = "connections" if name == "connections" else f"requests {name}"
            yield f"leaked: {left:g} {what} after all clients have left"
    before, after = idle.kv_cache_usage_ratio, end.kv_cache_usage_ratio
    if before is not None and after is not None and after > before:
        yield f"leaked KV blocks: {after:.2%} of the cache in use when idle, {before:.2%} before"
    for name, growth in _growth(warm, end) if growth_counts(end.at_s) else ():
        if growth is not None and growth >= RSS_GROWTH_MAX:
            yield f"memory of the {name} grew by {growth:.1%} since {warm.at_s:.0f} s"
    if end.engine_restarts > idle.engine_restarts:
        yield f"the engine was lost {end.engine_restarts - idle.engine_restarts:g} times"


def growth_counts(duration_s: float) -> bool:
    """Whether a soak is long enough for its growth to say something: the first minute is still warming up."""
    return duration_s >= 2 * WARM_S


def _growth(warm: Snapshot, end: Snapshot) -> Iterator[tuple[str, float | None]]:
    """By process; None where it is not the same any more."""
    yield "daemon", end.rss_front_bytes / warm.rss_front_bytes - 1
    same = (warm.engine_restarts, warm.engine_recycles) == (end.engine_restarts, end.engine_recycles)
    yield "worker", end.rss_engine_bytes / warm.rss_engine_bytes - 1 if same and warm.rss_engine_bytes else None


def print_report(report: SoakReport, out: TextIO) -> None:
    """For people; the verdict is the last line."""
    print(f"{report.server.model.id} at {report.url}, {report.minutes:g} minutes, seed {report.seed}", file=out)
    for name, count in sorted(report.counts.items()):
        print(f"  {name}: {count}", file=out)
    codes = ", ".join(f"{count} × {code}" for code, count in report.errors.items()) or "none"
    print(f"errors by code, provoked ones among them: {codes}", file=out)
    judged = "" if growth_counts(report.end.at_s) else ", not judged: that takes 2 minutes"
    for name, field in (("daemon", "rss_front_bytes"), ("worker", "rss_engine_bytes")):
        before, after = getattr(report.warm, field), getattr(report.end, field)
        growth = report.rss_growth.get(name)
        told = "another process by then" if growth is None else f"{growth:+.2%}{judged}"
        print(
            f"memory of the {name}: {before / 1e6:.1f} MB after {report.warm.at_s:.0f} s, {after / 1e6:.1f} MB at the "
            f"end, {told}",
            file=out,
        )
    if report.end.engine_recycles > report.idle.engine_recycles:
        print(f"workers replaced: {report.end.engine_recycles - report.idle.engine_recycles:g}", file=out)
    usage = [shot.kv_cache_usage_ratio for shot in (report.idle, report.end)]
    shown = ["unknown" if ratio is None else f"{ratio:.2%}" for ratio in usage]
    print(f"KV cache in use when idle: {shown[0]} before, {shown[1]} after", file=out)
    print(
        f"left after all clients have gone: {report.end.running:g} running, {report.end.waiting:g} waiting, "
        f"{report.end.connections:g} connections",
        file=out,
    )
    for violation in report.violations:
        print(f"violation: {violation}", file=out)
    print("; ".join(report.problems) if report.problems else "ok: nothing leaked, the protocol was kept", file=out)
