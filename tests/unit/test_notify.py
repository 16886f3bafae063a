"""sd_notify: what is sent, when nothing is, what the environment asks for."""

import errno
import os
import sys
import threading
from pathlib import Path

import pytest

from appliance.errors import ConfigError, StartError
from appliance.observability.notify import (
    PENDING_MAX,
    Notifier,
    child_environment,
    open_notifier,
    watchdog_period_s,
)
from tests.support.notify import service_manager


def test_messages_come_in_order_with_a_line_for_each_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service_manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        with open_notifier() as notifier:
            assert notifier.enabled
            notifier.tell(STATUS="two\nlines ·", READY=1)
            notifier.tell(WATCHDOG=1)
        assert manager.drain() == [{"STATUS": "two lines ·", "READY": "1"}, {"WATCHDOG": "1"}]


def test_without_a_manager_nothing_is_sent_and_no_thread_runs() -> None:
    with open_notifier({}) as notifier:
        notifier.tell(READY=1)
        assert not notifier.enabled
        assert "notify" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("error", "number"),
    [(ConfigError("server.port is wrong"), errno.EINVAL), (StartError("the engine fails"), errno.EIO)],
)
def test_an_error_that_ends_the_daemon_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, number: int
) -> None:
    with service_manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        with pytest.raises(type(error)), open_notifier():
            raise error
        assert manager.drain() == [{"STATUS": str(error), "ERRNO": str(number)}]


def test_the_error_number_is_that_of_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service_manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        with pytest.raises(StartError), open_notifier():
            raise StartError("port 1 is in use") from OSError(errno.EADDRINUSE, "in use")
        assert manager.drain()[0]["ERRNO"] == str(errno.EADDRINUSE)


def test_a_missing_library_is_told_at_once_where_a_manager_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd.daemon", None)
    with (
        pytest.raises(ConfigError, match=r"NOTIFY_SOCKET set.*systemd-python.*\[systemd\]"),
        open_notifier({"NOTIFY_SOCKET": "/run/systemd/notify"}),
    ):
        pass
    with open_notifier({}):
        pass


def test_a_manager_that_is_gone_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    with open_notifier() as notifier:
        notifier.tell(READY=1)
        notifier.tell(WATCHDOG=1)
    assert [record.getMessage() for record in caplog.records] == ["the service manager can't be told"]


def test_a_manager_that_does_not_read_blocks_nobody() -> None:
    reads = threading.Event()
    sent: list[str] = []

    def send(message: str) -> None:
        reads.wait()
        sent.append(message)

    notifier = Notifier(send)
    for number in range(PENDING_MAX * 2):
        notifier.tell(STATUS=number)
    reads.set()
    notifier.close()
    assert sent[:2] == ["STATUS=0", "STATUS=1"]
    assert PENDING_MAX <= len(sent) <= PENDING_MAX + 1


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_where_it_names_us(environ: dict[str, str], period_s: float | None) -> None:
    assert watchdog_period_s({"NOTIFY_SOCKET": "/run/systemd/notify", **environ}) == period_s
    assert watchdog_period_s(environ) is None


def test_a_child_gets_nothing_that_is_meant_for_us_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/appliance")
    environ = child_environment()
    assert environ["STATE_DIRECTORY"] == "/var/lib/appliance"
    assert not [name for name in environ if name.startswith(("NOTIFY", "WATCHDOG", "LISTEN"))]
