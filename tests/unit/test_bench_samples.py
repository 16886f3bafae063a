"""Sums of samples: percentiles, throughput, failures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bench.samples import Sample, percentiles, summarize


def sample(
    began_s: float = 0.0,
    *,
    ttft_ms: float | None = 100.0,
    gaps_ms: list[float] | None = None,
    total_ms: float = 1000.0,
    tokens: int = 10,
    outcome: str = "length",
) -> Sample:
    return Sample(
        client=0, turn=0, began_s=began_s, ttft_ms=ttft_ms, gaps_ms=gaps_ms or [], total_ms=total_ms, tokens=tokens,
        prompt_tokens=33, outcome=outcome,
    )  # fmt: skip


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=200))
def test_percentiles_are_those_of_numpy(values: list[float]) -> None:
    found = percentiles(values)
    assert found is not None
    expected = np.quantile(values, [0, 0.5, 0.9, 0.95, 0.99, 1])
    assert [found.min, found.p50, found.p90, found.p95, found.p99, found.max] == pytest.approx(list(expected))
    assert found.mean == pytest.approx(math.fsum(values) / len(values))


def test_of_nothing_there_are_no_percentiles() -> None:
    assert percentiles([]) is None


def test_a_level_counts_tokens_over_the_time_from_the_first_question_to_the_last_end() -> None:
    level = summarize("t", "free", 2, [sample(1.0, tokens=30), sample(3.0, total_ms=2000, tokens=50)])
    assert (level.requests, level.failed, level.tokens) == (2, 0, 80)
    assert level.wall_s == pytest.approx(4.0)
    assert level.tokens_per_s == pytest.approx(20.0)
    assert level.total_ms is not None
    assert level.total_ms.max == 2000


def test_the_time_a_token_leaves_the_first_out() -> None:
    assert sample(ttft_ms=100, total_ms=1000, tokens=10).tpot_ms == pytest.approx(100)
    assert sample(tokens=1).tpot_ms is None
    assert sample(ttft_ms=None, tokens=0).tpot_ms is None


def test_failures_are_counted_by_code_and_their_times_left_out() -> None:
    failed = [sample(outcome="queue_full", ttft_ms=None, total_ms=5, tokens=0) for _ in range(3)]
    level = summarize("t", "free", 4, [*failed, sample(outcome="timeout", ttft_ms=7, tokens=4), sample()])
    assert level.failed == 4
    assert level.errors == {"queue_full": 3, "timeout": 1}
    assert level.tokens == 10
    assert level.ttft_ms is not None
    assert level.ttft_ms.min == 100


def test_a_level_in_which_all_failed_has_no_times() -> None:
    level = summarize("t", "free", 1, [sample(outcome="internal", ttft_ms=None, tokens=0)])
    assert (level.ttft_ms, level.gap_ms, level.tpot_ms, level.total_ms) == (None, None, None, None)
    assert level.tokens_per_s == 0


def test_a_level_without_requests_is_empty() -> None:
    assert summarize("t", "free", 1, []).requests == 0
