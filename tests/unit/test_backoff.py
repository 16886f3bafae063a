"""The pauses between workers, on a clock that the test turns."""

import pytest

from appliance.config import EngineSettings
from appliance.engine.backoff import BACKOFF_FIRST_S, STEADY_S, Backoff

SETTINGS = EngineSettings(restart_backoff_max_s=1, failures_max=4, failure_window_s=100, retry_interval_s=60)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def about(seconds: float) -> object:
    return pytest.approx(seconds, rel=0.21)


def test_pauses_double_up_to_the_setting() -> None:
    backoff = Backoff(EngineSettings(restart_backoff_max_s=1, failures_max=100), Clock())
    pauses = [backoff.lost(0) for _ in range(5)]
    assert pauses == [about(0.25), about(0.5), about(1), about(1), about(1)]


def test_a_worker_that_served_for_a_while_starts_them_anew() -> None:
    backoff = Backoff(SETTINGS, Clock())
    backoff.lost(0)
    backoff.lost(0)
    assert backoff.lost(STEADY_S + 1) == about(BACKOFF_FIRST_S)


def test_many_losses_within_the_window_make_a_long_one_until_they_are_old() -> None:
    clock = Clock()
    backoff = Backoff(SETTINGS, clock)
    told = []
    for later_s in (0, 0, 0, 0, 60, 101):
        clock.now += later_s
        told.append((backoff.lost(1000), backoff.given_up))
    assert told == [*[(about(BACKOFF_FIRST_S), False)] * 3, (60, True), (60, True), (about(BACKOFF_FIRST_S), False)]
