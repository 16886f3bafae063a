"""What a worker prints: lines, whatever pieces they come in, and no more of them than anybody reads."""

import logging
import time

import pytest

from appliance.engine.worker_output import BURST_LINES, LAST_LINES, LINE_MAX_BYTES, WorkerOutput
from appliance.observability.logs import fields_of


@pytest.fixture
def output(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> WorkerOutput:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    return WorkerOutput(4711)


def test_lines_are_told_as_they_are_with_the_worker_that_said_them(
    output: WorkerOutput, caplog: pytest.LogCaptureFixture
) -> None:
    for piece in (b"one\ntw", b"o\n\n", b"\xff three\r\nlast"):
        output.feed(piece)
    output.close()
    assert caplog.messages == ["worker: one", "worker: two", "worker: \ufffd three", "worker: last"]
    assert all(fields_of(record) == {"worker_pid": 4711} for record in caplog.records)


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "ValueError: x",
        "Fatal Python error: Segmentation fault",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "double free or corruption (out)",
        "[ERROR] oneDNN",
    ],
)
def test_trouble_is_a_warning_and_what_is_indented_below_it_too(
    output: WorkerOutput, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    output.feed(f"loaded\n{line}\n  File x\nloaded\n  a list\n".encode())
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING", "WARNING", "INFO", "INFO"]


def test_a_line_without_an_end_is_told_as_far_as_it_is_read(
    output: WorkerOutput, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        output.feed(b"x" * LINE_MAX_BYTES)
    output.feed(b"x\nnext\n")
    assert caplog.messages == ["worker: " + "x" * LINE_MAX_BYTES + " …", "worker: next"]


def test_of_a_flood_the_beginning_and_the_end_are_told_and_how_much_is_left_out(
    output: WorkerOutput, caplog: pytest.LogCaptureFixture
) -> None:
    for start in range(0, 100_000, 1000):
        output.feed(b"".join(b"line %d\n" % n for n in range(start, start + 1000)))
    output.feed(b"free(): invalid pointer\n")
    output.close()
    texts = caplog.messages
    assert texts[:BURST_LINES] == [f"worker: line {n}" for n in range(BURST_LINES)]
    assert texts[BURST_LINES] == "worker prints too much, lines left out"
    left_out = fields_of(caplog.records[BURST_LINES])["lines"]
    assert left_out == 100_001 - BURST_LINES - LAST_LINES
    assert len(texts) == BURST_LINES + 1 + LAST_LINES
    assert texts[-1] == "worker: free(): invalid pointer"


def test_after_a_pause_there_is_room_again(
    output: WorkerOutput, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.feed(b"x\n" * (BURST_LINES + 3))
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    caplog.clear()
    output.feed(b"y\n")
    assert caplog.messages == ["worker prints too much, lines left out", "worker: y"]
    assert fields_of(caplog.records[0])["lines"] == 3


def test_memory_that_ran_out_is_remembered(output: WorkerOutput) -> None:
    output.feed(b"what():  std::bad_alloc\nthe end\n")
    assert output.last_words == "what():  std::bad_alloc"
