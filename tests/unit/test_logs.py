"""Log lines: form, what a terminal must not obey, and a stderr that nobody reads."""

import io
import json
import logging
import os
import queue
import subprocess
import sys
import time

import pytest

from appliance.observability import logs
from appliance.observability.logs import fields, logging_to_stderr

log = logging.getLogger("test")


def written(monkeypatch: pytest.MonkeyPatch, format_name: str, *events: str, **values: object) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_to_stderr("info", format_name):
        for event in events:
            log.info(event, extra=fields(**values))
        log.debug("too low")
    return stream.getvalue().splitlines()


def test_json_lines_are_objects_with_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = written(monkeypatch, "json", "request ended", ttft_ms=1.5, client="::1")
    entry = json.loads(line)
    assert {k: entry[k] for k in ("level", "logger", "event", "ttft_ms", "client")} == {
        "level": "info",
        "logger": "test",
        "event": "request ended",
        "ttft_ms": 1.5,
        "client": "::1",
    }
    assert entry["time"].endswith("Z")


def test_console_lines_are_readable_and_quoted_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = written(monkeypatch, "console", "engine lost", reason="ended by SIGKILL", pid=7)
    assert line.endswith('info    engine lost reason="ended by SIGKILL" pid=7')


def test_a_terminal_is_given_nothing_to_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch, "console", "worker: \x1b[31mred\nforged line", path="/\x1b]0;title\x07", word="\u202e")
    assert len(lines) == 1
    assert lines[0].isprintable()


def test_what_was_dropped_is_told() -> None:
    records: list[logging.LogRecord | None] = []
    full: queue.Queue[logging.LogRecord | None] = queue.Queue(2)
    handler = logs._BoundedQueueHandler(full)
    for number in range(5):
        handler.handle(logging.LogRecord("t", logging.INFO, "", 0, f"line {number}", None, None))
    while not full.empty():
        records.append(full.get())
    handler.handle(logging.LogRecord("t", logging.INFO, "", 0, "after", None, None))
    assert [r.getMessage() for r in records if r] == ["line 0", "line 1"]
    last = full.get()
    assert last is not None
    assert logs._fields_of(last) == {"log_lines_dropped_before": 3}


def test_a_reader_of_stderr_that_stops_reading_holds_nobody_up() -> None:
    script = (
        "import logging\n"
        "from appliance.observability import logs\n"
        "logs.FLUSH_TIMEOUT_S = 0.2\n"
        "with logs.logging_to_stderr('info', 'json'):\n"
        "    for n in range(20_000): logging.info('x' * 100)\n"
        "print('left', flush=True)\n"
        "import os; os._exit(0)\n"
    )
    reading, writing = os.pipe()
    try:
        done = subprocess.run([sys.executable, "-c", script], stderr=writing, stdout=subprocess.PIPE, timeout=30)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout == b"left\n"


def test_an_event_that_comes_at_each_turn_is_told_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    seldom = logs.Seldom()
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def passes(event: str) -> int | None:
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, event, None, None)
        return logs._fields_of(record)["held_back_before"] if seldom.filter(record) else None

    assert [passes("no files"), passes("no files"), passes("other"), passes("no files")] == [0, None, 0, None]
    clock[0] += 11
    assert passes("no files") == 2
