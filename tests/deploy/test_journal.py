"""The journal of a real host: what a request and a dying worker leave there, and how `journalctl -x` explains it.

The daemon runs under its very unit, with the fake engine.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.observability.events import Event
from tests.deploy.conftest import WHEELS, on_both
from tests.support.hosts import Host, Lab
from tests.support.hosts.machine import wait_until
from tests.support.units import UNITS, install_units

APPLIANCE = "/opt/appliance/current/bin/appliance"
START_TIMEOUT_S = 90
EVENT_TIMEOUT_S = 30

Entry = dict[str, str]


@pytest.fixture(scope="module")
def host(lab: Lab, installed: Path, wheels: Path) -> Iterator[Host]:
    """A host whose appliance answers."""
    made = lab.host("journal", over=[installed], shared={wheels: WHEELS}).start()
    install_units(made)
    made.put(UNITS / "appliance.catalog", "/usr/local/lib/systemd/catalog/appliance.catalog")
    made.run("journalctl --update-catalog")
    made.put('[engine]\npipeline = "fake"\n', "/etc/appliance/appliance.toml")
    made.run("systemctl start appliance.service", timeout_s=START_TIMEOUT_S)
    yield made
    lab.remove(made)


def entries(host: Host, *matches: str) -> list[Entry]:
    """What the journal has of the service, oldest first."""
    lines = host.ask(["journalctl", "--quiet", "-u", "appliance.service", "-o", "json", *matches]).splitlines()
    return [json.loads(line) for line in lines]


def newest(host: Host, count: int, *matches: str) -> Entry:
    """The last of `count` entries, once they are there."""
    found: list[Entry] = []

    def there() -> bool:
        found[:] = entries(host, *matches)
        return len(found) >= count

    wait_until(there, EVENT_TIMEOUT_S, lambda: f"{matches}: {found}\n{host.ask('journalctl -u appliance.service')}")
    return found[-1]


def lose_worker(host: Host, signal: str) -> tuple[str, Entry]:
    """Send the worker a signal; its process id, and the entry that tells of its loss."""
    lost = len(entries(host, f"MESSAGE_ID={Event.WORKER_LOST.message_id}"))
    ready = len(entries(host, f"MESSAGE_ID={Event.READY.message_id}"))
    pid = newest(host, 1, f"MESSAGE_ID={Event.READY.message_id}")["WORKER_PID"]
    host.run(f"kill -{signal} {pid}")
    entry = newest(host, lost + 1, f"MESSAGE_ID={Event.WORKER_LOST.message_id}")
    newest(host, ready + 1, f"MESSAGE_ID={Event.READY.message_id}")
    return pid, entry


@on_both
def test_a_request_is_one_entry_with_its_numbers_and_never_its_text(host: Host) -> None:
    host.run([APPLIANCE, "chat", "--max-tokens", "5", "the-secret-of-somebody"])
    entry = newest(host, 1, "OUTCOME=length")
    assert {name: entry[name] for name in ("CLIENT", "MODEL", "COMPLETION_TOKENS", "PRIORITY")} == {
        "CLIENT": "127.0.0.1",
        "MODEL": "fake",
        "COMPLETION_TOKENS": "5",
        "PRIORITY": "6",
    }
    assert int(entry["REQUEST_ID"]) > 0
    assert int(entry["PROMPT_TOKENS"]) > 0
    assert min(float(entry["TTFT_MS"]), float(entry["TPOT_MS"])) >= 0
    assert entry["MESSAGE"].startswith("request ended request_id=")
    assert (entry["SYSLOG_IDENTIFIER"], entry["_TRANSPORT"], entry["_SYSTEMD_UNIT"]) == (
        "appliance",
        "journal",
        "appliance.service",
    )
    assert "secret" not in host.ask("journalctl -u appliance.service -o export")


def test_no_line_of_the_daemon_comes_as_mere_text(host: Host) -> None:
    assert entries(host, "_TRANSPORT=stdout", "SYSLOG_IDENTIFIER=appliance") == []


@on_both
def test_a_worker_that_is_killed_is_an_event_that_the_journal_explains(host: Host) -> None:
    pid, entry = lose_worker(host, "KILL")
    assert (entry["WORKER_PID"], entry["PRIORITY"]) == (pid, "3")
    assert "SIGKILL" in entry["REASON"]
    told = host.ask(["journalctl", "-x", "-u", "appliance.service", f"MESSAGE_ID={Event.WORKER_LOST.message_id}"])
    assert "Subject: The engine worker was lost" in told
    assert f"The process that runs the model is gone: {entry['REASON']}." in told
    assert "appliance models verify" in told
    (page,) = {line.split("file://")[1].partition("#")[0] for line in told.splitlines() if "Documentation:" in line}
    host.run(["test", "-s", page])
    assert "@" not in told.replace("systemd@", "")


def test_the_last_words_of_a_crash_are_the_worker_s(host: Host) -> None:
    pid, entry = lose_worker(host, "SEGV")
    assert "SIGSEGV" in entry["REASON"]
    said = entries(host, "LOGGER=appliance.worker", f"WORKER_PID={pid}")
    fatal = [line for line in said if "Fatal Python error: Segmentation fault" in line["MESSAGE"]]
    assert [line["PRIORITY"] for line in fatal] == ["4"]


def test_what_an_operator_does_is_in_the_journal(host: Host) -> None:
    host.run([APPLIANCE, "drain"])
    host.run([APPLIANCE, "undrain"])
    host.run("systemctl reload appliance.service")
    for event in (Event.DRAINED, Event.UNDRAINED, Event.SETTINGS_RELOADED):
        newest(host, 1, f"MESSAGE_ID={event.message_id}")
    host.run("systemctl stop appliance.service", timeout_s=START_TIMEOUT_S)
    newest(host, 1, f"MESSAGE_ID={Event.STOPPING.message_id}")
    host.run("systemctl start appliance.service", timeout_s=START_TIMEOUT_S)
