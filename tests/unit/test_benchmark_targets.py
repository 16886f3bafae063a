"""Ratios within a round, their median, and whether a target is met."""

import pytest

from appliance.bench.samples import Level
from benchmarks.cells import BARE, DAEMON, NGRAM, Q4_0
from benchmarks.processes import Use
from benchmarks.results import Results, Verdict
from benchmarks.targets import at_least, at_most, judge, ratios, tokens_per_s, tpot_p50_ms
from tests.support.benchmark import chat, level, prefill, results


def verdict(found: Results, name: str) -> Verdict:
    matching = [one for one in judge(found, 128) if one.name == name]
    assert len(matching) == 1, [one.name for one in judge(found, 128)]
    return matching[0]


def rounds(contender: str, *speeds: float, rival: tuple[str, float]) -> list[dict[str, Level]]:
    name, rival_speed = rival
    return [{contender: level(tokens_per_s=one), name: level(tokens_per_s=rival_speed)} for one in speeds]


def test_the_median_of_the_rounds_decides_and_the_bound_itself_is_met() -> None:
    assert at_least("x", 2.0, [1.0, 2.0, 9.0]).met is True
    assert at_least("x", 2.0, [1.0, 1.9, 9.0]).met is False
    assert at_most("x", 2.0, [1.0, 2.0, 9.0]).met is True
    assert at_most("x", 2.0, [1.0, 2.1, 9.0]).met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    empty = judge(results(), 128)
    assert {(one.met, one.median) for one in empty} == {(None, None)}
    assert len({one.name for one in empty}) == len(empty)


def test_a_ratio_is_made_of_two_figures_of_one_round() -> None:
    found = results(clients_8=[*rounds(DAEMON, 60, rival=(Q4_0, 30)), *rounds(DAEMON, 100, 20, rival=(Q4_0, 10))])
    assert ratios(found, "clients-8", tokens_per_s, DAEMON, Q4_0) == [2.0, 10.0, 2.0]
    assert verdict(found, "tokens/s over llama.cpp's, 8 clients").median == 2.0


def test_a_round_without_the_rival_has_no_ratio() -> None:
    found = results(clients_8=[{DAEMON: level(), Q4_0: level()}, {DAEMON: level()}])
    assert ratios(found, "clients-8", tokens_per_s, DAEMON, Q4_0) == [1.0]


def test_a_throughput_with_failed_requests_is_not_compared() -> None:
    found = results(clients_8=[{DAEMON: level(failed=1), BARE: level()}])
    assert verdict(found, "tokens/s over the bare loop's, 8 clients").met is None


def test_of_two_rivals_the_better_one_counts() -> None:
    slow, quick = level(tpot_ms=30.0), level(tpot_ms=20.0)
    found = results(
        grounded=[
            {DAEMON: level(tpot_ms=10.0), Q4_0: slow, NGRAM: quick},
            {DAEMON: level(tpot_ms=10.0), Q4_0: quick, NGRAM: slow},
        ]
    )
    assert ratios(found, "grounded", tpot_p50_ms, DAEMON, NGRAM, Q4_0) == [0.5, 0.5]
    assert verdict(found, "ms a token over llama.cpp's, grounded answers").met is True


def test_added_ttft_is_a_difference() -> None:
    found = results(clients_1=[{DAEMON: level(ttft_ms=(104.0,)), BARE: level(ttft_ms=(100.0,))}])
    added = verdict(found, "TTFT added to the bare loop's, 1 client")
    assert (added.rounds, added.unit, added.met) == ([4.0], "ms", True)


def test_the_worst_first_token_is_compared_with_the_worst() -> None:
    ours, theirs = level(ttft_ms=(100.0, 260.0)), level(ttft_ms=(190.0, 200.0))
    found = results(clients_10=[{DAEMON: ours, BARE: theirs}])
    assert verdict(found, "worst TTFT over the bare loop's, 10 clients").rounds == [1.3]


def test_scaling_is_compared_by_medians_of_both_cells() -> None:
    found = results(
        clients_1=rounds(DAEMON, 30, 30, 90, rival=(BARE, 30)), clients_8=rounds(DAEMON, 90, rival=(BARE, 120))
    )
    scaling = verdict(found, "scaling from 1 to 8 clients over the bare loop's")
    assert scaling.rounds == [pytest.approx(0.75)]
    assert scaling.met is False


def test_the_front_process_and_memory_are_judged_by_themselves() -> None:
    found = results(clients_8=[{DAEMON: level()}])
    found.cells[0].rounds[0].front = Use(cpu_cores=0.06, rss_bytes=60_000_000)
    found.memory_bytes = {"front": 60_000_000, "worker": 930_000_000}
    assert verdict(found, "front process, 8 clients").met is False
    assert verdict(found, "memory of the front process").met is True
    assert verdict(found, "memory of the whole daemon").rounds == [990.0]


def test_only_the_daemons_chats_are_judged() -> None:
    found = results()
    found.chats = [chat(DAEMON, 150.0, 100.0), chat(BARE, 900.0, 100.0)]
    growing = verdict(found, "chat: TTFT of turn 10 over a fresh chat's")
    assert (growing.rounds, growing.met) == ([1.5], True)


def test_a_stall_counts_at_the_daemons_own_step_size() -> None:
    found = results()
    found.prefills = [prefill(64, 200.0), prefill(128, 400.0)]
    assert verdict(found, "stall of a stream by a 2,000-token prompt").rounds == [400.0]
