"""The verdict of a soak, from made-up figures."""

import io

import pytest
from msgspec.structs import replace

from appliance.bench.server import Metrics
from appliance.bench.soak.checking import Findings
from appliance.bench.soak.report import Snapshot, SoakReport, find_problems, print_report, snapshot
from appliance.observability.metrics import Metrics as DaemonMetrics
from tests.support.bench import SERVER

IDLE = Snapshot(
    at_s=0.0, rss_front_bytes=60e6, rss_engine_bytes=500e6, running=0, waiting=0, connections=0,
    kv_cache_usage_ratio=0.1, engine_restarts=0,
)  # fmt: skip
WARM = replace(IDLE, at_s=60.0, rss_front_bytes=80e6, running=5, connections=20)


def findings(answers: int = 10, violations: int = 0) -> Findings:
    found = Findings()
    found.counts["whole answers"] = answers
    for _ in range(violations):
        found.violation("again")
    return found


def test_a_daemon_that_is_as_before_has_no_problem() -> None:
    end = replace(IDLE, at_s=600.0, rss_front_bytes=81e6, rss_engine_bytes=505e6)
    assert find_problems(IDLE, WARM, end, findings()) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"running": 1}, "leaked: 1 requests running"),
        ({"waiting": 2}, "leaked: 2 requests waiting"),
        ({"connections": 3}, "leaked: 3 connections"),
        ({"kv_cache_usage_ratio": 0.11}, "leaked KV blocks: 11.00% of the cache in use when idle, 10.00% before"),
        ({"rss_front_bytes": 81.7e6}, "memory of the daemon grew by 2.1% since 60 s"),
        ({"rss_engine_bytes": 520e6}, "memory of the worker grew by 4.0% since 60 s"),
        ({"engine_restarts": 1, "rss_engine_bytes": 900e6}, "the engine was lost 1 times"),
    ],
)
def test_what_is_left_behind_is_a_problem(change: dict[str, float], problem: str) -> None:
    end = replace(IDLE, at_s=600.0, **({"rss_front_bytes": 80e6} | change))
    (found,) = find_problems(IDLE, WARM, end, findings())
    assert problem in found


def test_memory_of_a_short_soak_is_not_judged() -> None:
    end = replace(IDLE, at_s=70.0, rss_front_bytes=160e6)
    assert find_problems(IDLE, WARM, end, findings()) == []


def test_the_memory_of_another_worker_is_not_compared() -> None:
    end = replace(IDLE, at_s=600.0, rss_front_bytes=80e6, rss_engine_bytes=900e6, engine_recycles=1)
    assert find_problems(IDLE, WARM, end, findings()) == []


def test_a_violation_and_a_soak_without_answers_are_problems() -> None:
    assert find_problems(IDLE, WARM, replace(IDLE, rss_front_bytes=80e6), findings(answers=0, violations=2)) == [
        "the protocol was violated 2 times",
        "no ordinary request was answered",
    ]


def test_a_kv_cache_that_is_not_known_is_no_problem() -> None:
    end = replace(IDLE, kv_cache_usage_ratio=None)
    assert find_problems(IDLE, WARM, end, findings()) == []


def test_a_snapshot_is_read_from_what_a_daemon_exposes() -> None:
    metrics = DaemonMetrics()
    metrics.watch(lambda: 2, lambda: 3)
    metrics.engine_lost("died")
    text, _ = metrics.render("")
    shot = snapshot(Metrics(text.decode()), 7.0)
    assert (shot.running, shot.waiting, shot.engine_restarts, shot.kv_cache_usage_ratio) == (2, 3, 1, None)
    assert shot.rss_front_bytes > 10_000_000
    assert not shot.idle


def test_the_verdict_is_the_last_line() -> None:
    out = io.StringIO()
    report = SoakReport(
        created_at="", url="ws://x", server=SERVER, seed=1, minutes=10, idle=IDLE, warm=WARM,
        end=replace(IDLE, running=1), history=[], counts={"disconnects": 5000}, errors={"queue_full": 3},
        violations=["test: a second hello"], violation_count=1, problems=["leaked: 1 requests running", "more"],
    )  # fmt: skip
    print_report(report, out)
    lines = out.getvalue().splitlines()
    assert lines[-1] == "leaked: 1 requests running; more"
    assert "  disconnects: 5000" in lines
    assert "violation: test: a second hello" in lines
    print_report(replace(report, problems=[]), out)
    assert out.getvalue().splitlines()[-1].startswith("ok: ")
