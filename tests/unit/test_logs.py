"""Log lines: form, what a terminal must not obey, and a stderr that nobody reads."""

import io
import json
import logging
import os
import queue
import subprocess
import sys

import pytest

from appliance.errors import ConfigError
from appliance.observability import log_writer
from appliance.observability.events import Event, event
from appliance.observability.log_writer import open_log
from appliance.observability.logs import SELDOM, ConsoleFormatter, PrefixedFormatter, fields, fields_of

log = logging.getLogger("test")


def written(monkeypatch: pytest.MonkeyPatch, format_name: str, *events: str, **values: object) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_log("info", format_name):
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
    handler = log_writer._BoundedQueueHandler(full)
    for number in range(5):
        handler.handle(logging.LogRecord("t", logging.INFO, "", 0, f"line {number}", None, None))
    while not full.empty():
        records.append(full.get())
    handler.handle(logging.LogRecord("t", logging.INFO, "", 0, "after", None, None))
    assert [r.getMessage() for r in records if r] == ["line 0", "line 1"]
    last = full.get()
    assert last is not None
    assert fields_of(last) == {"log_lines_dropped_before": 3}


def test_a_reader_of_stderr_that_stops_reading_holds_nobody_up() -> None:
    script = (
        "import logging\n"
        "from appliance.observability import log_writer as logs\n"
        "logs.FLUSH_TIMEOUT_S = 0.2\n"
        "with logs.open_log('info', 'json'):\n"
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


def test_the_level_is_as_it_was_when_the_log_has_ended() -> None:
    before = logging.getLogger().level
    with open_log("error", "json"):
        assert logging.getLogger().level == logging.ERROR
    assert logging.getLogger().level == before


def test_colours_are_for_terminals_and_only_for_what_is_unusual() -> None:
    record = logging.LogRecord("t", logging.WARNING, "", 0, "late", None, None)
    assert "\x1b" not in ConsoleFormatter().format(record)
    assert " \x1b[33mwarning\x1b[0m late" in ConsoleFormatter(colours=True).format(record)
    record.levelno, record.levelname = logging.INFO, "INFO"
    assert "\x1b" not in ConsoleFormatter(colours=True).format(record)


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_is_coloured_unless_it_is_not_to_be(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    for name in ("NO_COLOR", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    with open_log("info", "auto"):
        log.warning("late")
    assert ("\x1b[33m" in stream.getvalue()) is coloured
    assert stream.getvalue().count("late") == 1


def test_a_stream_that_ends_in_the_journal_says_each_line_s_priority() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("t", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    lines = PrefixedFormatter().format(record).splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>ValueError: why"
    assert all(line.startswith("<3>") for line in lines)


def test_json_lines_have_the_message_id_of_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_log("info", "json"):
        log.info("ready", extra=event(Event.READY, worker_pid=7, load_s=1.0, warm_up_s=0.1))
    assert json.loads(stream.getvalue())["message_id"] == Event.READY.message_id


def test_what_is_held_back_is_told_when_the_log_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written_seldom(monkeypatch, 5)
    assert [json.loads(line).get("more_like_it") for line in lines] == [None, 3]


def written_seldom(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_log("info", "json"):
        for _ in range(times):
            log.warning("full", extra=fields(waiting=1) | SELDOM)
    return stream.getvalue().splitlines()


def test_the_journal_without_systemd_python_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    with (
        pytest.raises(ConfigError, match=r"logging\.format is journal.*edge-chat-appliance\[systemd\]"),
        open_log("info", "journal"),
    ):
        pass


def test_under_systemd_without_systemd_python_lines_are_text_with_their_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    monkeypatch.setattr(log_writer, "stderr_is_journal", lambda: True)
    with open_log("info", "auto"):
        log.warning("late", extra=fields(late_s=1))
    assert stream.getvalue() == "<4>late late_s=1\n"
