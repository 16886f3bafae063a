"""What a soak takes for a violation of the protocol, and what not."""

import pytest

from appliance.bench.soak.checking import VIOLATIONS_KEPT, Checker, Findings
from appliance.protocol.websocket import (
    Delta,
    Done,
    Error,
    Hello,
    HelloModel,
    Limits,
    Queued,
    ServerMessage,
    Started,
    encode,
)
from appliance.types import FinishReason, Timings, Usage

HELLO = Hello(
    server="appliance/0",
    model=HelloModel("tiny", 4096),
    limits=Limits(max_prompt_tokens=4095, max_tokens=4096, max_message_bytes=1 << 20, max_live_requests=16),
    session="s",
)


def done(tokens: int = 2, reason: FinishReason = "stop") -> Done:
    return Done(
        id="r", finish_reason=reason, model="tiny", usage=Usage(9, tokens),
        timings=Timings(queue_ms=0, ttft_ms=1, tpot_ms=1, total_ms=2),
    )  # fmt: skip


def violations(
    *messages: ServerMessage, max_tokens: int = 8, provoked: bool = False, cancelled: bool = False
) -> list[str]:
    """What is found where request "r" is live, after the hello."""
    findings = Findings()
    checker = Checker(findings, "test")
    checker.feed(encode(HELLO))
    checker.began("r", max_tokens)
    if provoked:
        checker.provoked("bad")
    if cancelled:
        checker.cancelled("r")
    for message in messages:
        checker.feed(encode(message))
    assert len(findings.violations) == findings.violation_count
    return findings.violations


STARTED = Started("r", 9)


@pytest.mark.parametrize(
    "messages",
    [
        (STARTED, Delta("r", 0, "one"), Delta("r", 3, "two"), done()),
        (Queued("r", 2, None), Queued("r", 1, 0.5), STARTED, done(0)),
        (STARTED, Delta("r", 0, "😀"), Delta("r", 1, "x"), done(8, "length")),
        (STARTED, Error("r", "engine_restarted", "lost", 4.0)),
        (Error("r", "queue_full", "full", 1.0),),
    ],
)
def test_what_the_protocol_allows_is_no_violation(messages: tuple[ServerMessage, ...]) -> None:
    assert violations(*messages) == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((STARTED, Delta("r", 1, "one")), "delta of 3 characters at 1 instead of 0"),
        ((STARTED, Delta("r", 0, "one"), Delta("r", 0, "one")), "at 0 instead of 3"),
        ((STARTED, Delta("r", 0, "")), "delta of 0 characters"),
        ((Delta("r", 0, "one"),), "delta of 3 characters"),
        ((STARTED, STARTED), "started twice"),
        ((STARTED, Queued("r", 1, None)), "after started"),
        ((Queued("r", 0, None),), "position 0"),
        ((STARTED, done(), done()), "done for 'r', which is not live"),
        ((STARTED, done(), Delta("r", 0, "x")), "delta for 'r', which is not live"),
        ((STARTED, done(3, "length")), "length after 3 tokens of 8"),
        ((STARTED, done(9)), "9 tokens of at most 8"),
        ((STARTED, Delta("r", 0, "x"), done(0)), "1 characters of no token"),
        ((Error("other", "bad_message", "?"),), "error bad_message for 'other'"),
        ((Error(None, "bad_message", "?"),), "error bad_message for None"),
        ((STARTED, Error("r", "internal", "oops")), "internal error: oops"),
        ((HELLO,), "a second hello"),
    ],
)
def test_what_it_does_not_allow_is_named(messages: tuple[ServerMessage, ...], reason: str) -> None:
    (found,) = violations(*messages)
    assert reason in found


def test_a_provoked_error_comes_once() -> None:
    assert violations(Error("bad", "bad_message", "?"), provoked=True) == []
    assert violations(Error(None, "bad_message", "?"), provoked=True) == []
    assert len(violations(Error(None, "bad_message", "?"), Error(None, "bad_message", "?"), provoked=True)) == 1


def test_a_cancel_may_cross_the_end_of_its_request() -> None:
    assert violations(STARTED, done(), Error("r", "unknown_id", "?"), cancelled=True) == []
    assert len(violations(STARTED, done(), Error("r", "unknown_id", "?"))) == 1


def test_what_is_no_message_and_what_comes_before_the_hello_are_violations() -> None:
    findings = Findings()
    checker = Checker(findings, "test")
    checker.feed("{")
    checker.feed(encode(STARTED))
    assert findings.violation_count == 2
    assert "no hello" in findings.violations[1]


def test_messages_of_later_versions_are_taken() -> None:
    findings = Findings()
    checker = Checker(findings, "test")
    checker.feed(encode(HELLO))
    assert checker.feed('{"type": "weather", "id": "r"}') is None
    assert findings.violation_count == 0


def test_few_violations_are_kept_and_all_are_counted() -> None:
    findings = Findings()
    for _ in range(VIOLATIONS_KEPT + 5):
        findings.violation("again")
    assert (len(findings.violations), findings.violation_count) == (VIOLATIONS_KEPT, VIOLATIONS_KEPT + 5)
