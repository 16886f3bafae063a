"""Entries of the journal: their fields, what clashes with the journal's own, and a journal that is not there."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.observability import journal as journal_module
from appliance.observability.events import Event, event
from appliance.observability.journal import MESSAGE_MAX_BYTES, VALUE_MAX_BYTES, ToJournal, field_name, stderr_is_journal
from appliance.observability.logs import fields
from tests.support.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    yield made
    if made.path.exists():
        made.close()


class Desk:
    """A writer to a journal, and what went elsewhere."""

    def __init__(self, path: Path) -> None:
        self.otherwise: list[logging.LogRecord] = []
        self.write = ToJournal(self.otherwise.append, str(path))

    def log(self, message: str, level: int = logging.INFO, **extra: object) -> None:
        record = logging.getLogger("test").makeRecord("test", level, __file__, 7, message, (), None, "here", extra)
        self.write(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.otherwise]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "socket")
    yield made
    made.write.close()


def test_an_entry_has_message_level_fields_and_where_it_was_logged(journal: Journal, desk: Desk) -> None:
    desk.log("request ended", **fields(request_id=7, client="::1", ttft_ms=1.5, beside=True, code=None))
    assert journal.wait_for("") == {
        "MESSAGE": "request ended request_id=7 client=::1 ttft_ms=1.5 beside=True",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "appliance",
        "LOGGER": "test",
        "THREAD_NAME": "MainThread",
        "CODE_FILE": __file__,
        "CODE_LINE": "7",
        "CODE_FUNC": "here",
        "REQUEST_ID": "7",
        "CLIENT": "::1",
        "TTFT_MS": "1.5",
        "BESIDE": "true",
    }


@pytest.mark.parametrize(("level", "priority"), [("DEBUG", "7"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")])
def test_priorities_are_those_of_syslog(journal: Journal, desk: Desk, level: str, priority: str) -> None:
    desk.log("x", logging.getLevelNamesMapping()[level])
    assert journal.wait_for("x")["PRIORITY"] == priority


def test_an_event_has_its_message_id(journal: Journal, desk: Desk) -> None:
    desk.log("gone", **event(Event.WORKER_LOST, reason="ended by SIGKILL"))
    entry = journal.wait_for("gone")
    assert (entry["MESSAGE_ID"], entry["REASON"]) == (Event.WORKER_LOST.message_id, "ended by SIGKILL")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ttft_ms", "TTFT_MS"),
        ("code", "CODE"),
        ("unit", "APPLIANCE_UNIT"),
        ("message", "APPLIANCE_MESSAGE"),
        ("code_line", "APPLIANCE_CODE_LINE"),
        ("_pid", "APPLIANCE__PID"),
        ("2nd", "APPLIANCE_2ND"),
        ("engine.threads", "ENGINE_THREADS"),
        ("größe", "GR_SSE"),
        ("", "APPLIANCE_"),
        ("x" * 100, "X" * 64),
    ],
)
def test_a_field_never_means_what_the_journal_means_by_it(key: str, name: str) -> None:
    assert field_name(key) == name


def test_lines_within_a_value_forge_no_field(journal: Journal, desk: Desk) -> None:
    desk.log("x", **fields(reason="one\nPRIORITY=0\nMESSAGE=forged"))
    entry = journal.wait_for("x")
    assert (entry["REASON"], entry["PRIORITY"]) == ("one\nPRIORITY=0\nMESSAGE=forged", "6")
    assert "\n" not in entry["MESSAGE"]


def test_an_entry_is_bounded_and_whole_characters(journal: Journal, desk: Desk) -> None:
    desk.log("é" * MESSAGE_MAX_BYTES, **fields(a="€" * VALUE_MAX_BYTES, b="\ud800"))
    entry = journal.wait_for("")
    assert entry["MESSAGE"] == "é" * (MESSAGE_MAX_BYTES // 2)
    assert entry["A"] == "€" * (VALUE_MAX_BYTES // 3)
    assert entry["B"] == "\\ud800"


def test_without_a_journal_lines_go_elsewhere_with_one_warning_and_back_with_another(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.0)
    desk.log("one")
    desk.log("two")
    assert desk.texts == ["the journal takes no lines, they go to stderr", "one", "two"]
    journal = Journal(tmp_path / "socket")
    desk.log("three")
    assert journal.wait_for("the journal is there again")["LINES_ON_STDERR"] == "2"
    journal.wait_for("three")
    journal.close()
    desk.log("four")
    assert desk.texts[3:] == ["the journal takes no lines, they go to stderr", "four"]


def test_a_journal_that_is_not_there_is_not_asked_for_each_line(tmp_path: Path, desk: Desk) -> None:
    desk.log("one")
    journal = Journal(tmp_path / "socket")
    desk.log("two")
    assert desk.texts[1:] == ["one", "two"]
    journal.close()


def test_a_journal_that_does_not_read_costs_a_bounded_time_and_no_line(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEND_TIMEOUT_S", 0.05)
    desk = Desk(tmp_path / "socket")
    sent = 0
    while not desk.otherwise:
        desk.log(f"line {sent}")
        sent += 1
    assert desk.texts == ["the journal takes no lines, they go to stderr", f"line {sent - 1}"]
    desk.write.close()


def test_stderr_is_the_journal_only_where_systemd_says_so_of_this_very_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not stderr_is_journal()
    status = Path("/proc/self/fd/2").stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert stderr_is_journal()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    assert not stderr_is_journal()
