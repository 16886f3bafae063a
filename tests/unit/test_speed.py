"""Estimates of waiting time, from what was measured."""

import pytest

from appliance.dispatch.speed import Speed, retry_after_s, starts_s


def test_nothing_is_told_before_something_was_measured() -> None:
    assert Speed().remaining_s(100) is None


def test_an_answer_is_expected_to_be_as_long_as_usual_and_no_longer_than_it_may_be() -> None:
    speed = Speed()
    speed.add(10.0, 100)
    assert speed.remaining_s(500) == pytest.approx(10.0)
    assert speed.remaining_s(20) == pytest.approx(2.0)
    assert speed.remaining_s(500, produced=60) == pytest.approx(4.0)
    assert speed.remaining_s(500, produced=300) == pytest.approx(10.0)  # half of the 200 it may still use


def test_recent_answers_count_more() -> None:
    speed = Speed()
    speed.add(1.0, 100)
    for _ in range(30):
        speed.add(10.0, 100)
    assert speed.remaining_s(100) == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "expected"),
    [
        ([6.0], [5.0, 5.0], 1, [6.0, 11.0]),
        ([6.0, 2.0], [5.0, 5.0, 1.0], 2, [2.0, 6.0, 7.0]),
        ([], [1.0], 4, [0.0]),
        ([3.0], [9.0, 9.0], 2, [0.0, 3.0]),
    ],
)
def test_starts_follow_from_what_runs_and_what_waits_before(
    running: list[float], waiting: list[float], slots: int, expected: list[float]
) -> None:
    assert starts_s(running, waiting, slots) == expected


def test_a_full_queue_asks_to_come_back_when_its_first_has_started() -> None:
    assert retry_after_s([]) == 1.0
    assert retry_after_s([0.2, 9]) == 1.0
    assert retry_after_s([6.1, 9]) == 7.0
