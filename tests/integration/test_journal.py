"""The daemon and a stand-in for journald at its fixed path, in a namespace: fields, events, a journal that is deaf."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.client import connect
from appliance.errors import EXIT_CONFIG
from appliance.observability.events import Event
from appliance.types import Message
from tests.support.journal import Journal
from tests.support.process import Served, serving

# As systemd starts a service: stderr is said to be the journal's. Nothing of it is seen outside of the namespace.
AS_A_SERVICE = """
mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$1" /run/systemd/journal && shift &&
JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec "$@"
"""
REQUESTS = 40
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")
    (tmp_path / "journal").mkdir()
    made = Journal(tmp_path / "journal/socket")
    yield made
    with contextlib.suppress(FileNotFoundError):
        made.close()


@contextlib.contextmanager
def service(journal: Journal, home: Path, *arguments: str) -> Iterator[Served]:
    before = [*NAMESPACE, "sh", "-c", AS_A_SERVICE, "sh", os.fspath(journal.path.parent)]
    with serving(home, *arguments, before=before, engine__pipeline="fake") as served:
        yield served


async def ask(url: str, prompt: str = "hello") -> None:
    async with connect(url) as client, client.stream([Message("user", prompt)], max_tokens=8) as answer:
        async for _ in answer:
            pass


async def test_a_request_is_one_entry_with_its_numbers_as_fields_and_never_its_text(
    journal: Journal, tmp_path: Path
) -> None:
    with service(journal, tmp_path) as served:
        url = journal.wait_for("listening")["URL"]
        ready = journal.wait_for("engine ready")
        assert ready["MESSAGE_ID"] == Event.READY.message_id
        await ask(url, "the-secret-of-somebody")
        ended = journal.wait_for("request ended")
        assert {name: ended[name] for name in ("REQUEST_ID", "CLIENT", "MODEL", "OUTCOME", "PRIORITY")} == {
            "REQUEST_ID": "1", "CLIENT": "127.0.0.1", "MODEL": "fake", "OUTCOME": "length", "PRIORITY": "6",
        }  # fmt: skip
        assert ended["SYSLOG_IDENTIFIER"] == "appliance"
        assert int(ended["PROMPT_TOKENS"]) > 0
        assert int(ended["COMPLETION_TOKENS"]) > 1
        assert float(ended["TTFT_MS"]) > 0
        assert float(ended["TPOT_MS"]) >= 0
        assert not {"CODE", "CANCEL_REASON"} & set(ended)
        served.process.send_signal(signal.SIGTERM)
        assert journal.wait_for("draining")["MESSAGE_ID"] == Event.STOPPING.message_id
        assert served.end() == 0
        assert "secret" not in repr(journal.entries)
        assert (served.log, served.plain) == ([], [])


def test_a_worker_that_is_killed_is_an_event_and_what_a_crash_prints_is_the_worker_s(
    journal: Journal, tmp_path: Path
) -> None:
    with service(journal, tmp_path):
        worker = int(journal.wait_for("engine ready")["WORKER_PID"])
        os.kill(worker, signal.SIGKILL)
        lost = journal.wait_for("engine worker lost")
        assert (lost["MESSAGE_ID"], lost["PRIORITY"]) == (Event.WORKER_LOST.message_id, "3")
        assert (lost["WORKER_PID"], "SIGKILL" in lost["REASON"]) == (str(worker), True)
        worker = int(journal.wait_for("engine ready")["WORKER_PID"])
        os.kill(worker, signal.SIGSEGV)
        fatal = journal.wait_for("worker: Fatal Python error: Segmentation fault")
        assert (fatal["WORKER_PID"], fatal["LOGGER"]) == (str(worker), "appliance.worker")
        assert fatal["PRIORITY"] == "4"
        assert "SIGSEGV" in journal.wait_for("engine worker lost")["REASON"]


async def test_a_journal_that_does_not_read_holds_up_no_client_and_costs_no_line(
    journal: Journal, tmp_path: Path
) -> None:
    with service(journal, tmp_path) as served:
        url = journal.wait_for("listening")["URL"]
        journal.wait_for("engine ready")
        for _ in range(REQUESTS):  # many more lines than the socket holds
            await ask(url)
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
    journal.read_rest()
    entries = [entry["MESSAGE"] for entry in journal.entries if entry["MESSAGE"].startswith("request ended")]
    lines = [line for line in served.plain if line.startswith("<6>request ended")]
    assert (len(entries) + len(lines), bool(entries), bool(lines)) == (REQUESTS, True, True)
    assert sum("the journal takes no lines" in line for line in served.plain) == 1


def test_without_a_journal_lines_are_on_stderr_with_their_priority(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    with service(journal, tmp_path) as served:
        served.wait_for_plain("<6>engine ready")
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
    assert served.plain[0].startswith("<4>the journal takes no lines, they go to stderr reason=")
    assert any(line.startswith("<6>listening url=") for line in served.plain)
    assert sum("takes no lines" in line for line in served.plain) == 1


def test_why_it_can_t_start_is_an_event_at_error(journal: Journal, tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text("[server]\nprot = 1\n")
    with service(journal, tmp_path, "--config", os.fspath(file)) as served:
        assert served.end() == EXIT_CONFIG
    told = journal.wait_for("can't serve")
    assert (told["MESSAGE_ID"], told["PRIORITY"], told["EXIT_STATUS"]) == (Event.NOT_STARTED.message_id, "3", "78")
    assert "did you mean port?" in told["REASON"]
    assert "did you mean port?" in told["MESSAGE"]
    assert (served.log, served.plain) == ([], [])


def test_why_it_can_t_start_is_at_error_on_stderr_without_a_journal(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        service(journal, tmp_path, "--port", str(taken.getsockname()[1])) as served,
    ):
        assert served.end() == 1
    assert served.plain[-1].startswith("<3>can't serve reason=")
    assert "is in use" in served.plain[-1]
