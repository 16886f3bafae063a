"""Repeated lines: told at once, then now and then, with how many more there were."""

import logging
import time

import pytest

from appliance.observability.logs import SELDOM, fields, fields_of
from appliance.observability.seldom import SELDOM_MAX_EVENTS, SELDOM_S, Seldom, mark_seldom


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def record(event: str, name: str = "test", **values: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "", 0, event, None, None)
    made.__dict__.update(fields(**values) | SELDOM)
    return made


def test_what_comes_again_and_again_is_told_once_in_a_while(clock: list[float]) -> None:
    seldom = Seldom()

    def passes(event: str) -> dict[str, object] | None:
        made = record(event, waiting=1)
        return fields_of(made) if seldom.filter(made) else None

    told = {"waiting": 1}
    assert [passes("full"), passes("full"), passes("other"), passes("full")] == [told, None, told, None]
    clock[0] += SELDOM_S
    assert passes("full") == {"waiting": 1, "more_like_it": 2}
    assert passes("full") is None


def test_what_is_not_marked_is_always_told(clock: list[float]) -> None:
    seldom = Seldom()
    plain = logging.LogRecord("test", logging.ERROR, "", 0, "lost", None, None)
    assert all(seldom.filter(plain) for _ in range(3))


def test_what_was_held_back_is_told_though_it_does_not_come_again(clock: list[float]) -> None:
    seldom = Seldom()
    for number in range(4):
        seldom.filter(record("full", waiting=number))
    assert seldom.overdue() == []
    clock[0] += SELDOM_S
    (last,) = seldom.overdue()
    assert fields_of(last) == {"waiting": 3, "more_like_it": 2}
    assert seldom.overdue() == []
    assert not seldom.filter(record("full"))


def test_at_the_end_nothing_stays_held_back(clock: list[float]) -> None:
    seldom = Seldom()
    for _ in range(2):
        seldom.filter(record("full"))
    (last,) = seldom.overdue(all_of_them=True)
    assert fields_of(last) == {}


def test_what_is_remembered_is_bounded(clock: list[float]) -> None:
    seldom = Seldom()
    assert all(seldom.filter(record(f"event {n}")) for n in range(2 * SELDOM_MAX_EVENTS))
    assert len(seldom._told) == SELDOM_MAX_EVENTS
    clock[0] += SELDOM_S
    seldom.overdue()
    assert seldom._told == {}


def test_another_logger_can_be_made_to_tell_seldom_and_without_tracebacks() -> None:
    made = logging.LogRecord("asyncio", logging.ERROR, "", 0, "no files", None, (ValueError, ValueError(), None))
    assert mark_seldom(made)
    assert made.exc_info is None
    seldom = Seldom()
    assert [seldom.filter(made), seldom.filter(made)] == [True, False]
