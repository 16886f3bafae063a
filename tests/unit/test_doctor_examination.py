"""All checks together: bounds, failures, what they come to; and how others are asked. The hosts are made up."""

import http.server
import sys
import threading
import time
from pathlib import Path

import pytest

from appliance.doctor.asking import ask, get
from appliance.doctor.checks import CHECKS
from appliance.doctor.examination import examine
from appliance.doctor.findings import Finding, Report, green, red, unknown, worst, yellow
from appliance.doctor.surroundings import SERVICE, SOCKET, Surroundings, look
from tests.support.doctor import Programs, surroundings, write


def report(*findings: Finding) -> Report:
    return Report(at="", version="", status=worst(findings), findings=findings)


def test_the_exit_status_is_that_of_the_worst() -> None:
    fine, look_at, bad, dark = green("a", "x"), yellow("b", "x", "y"), red("c", "x", "y"), unknown("d", "x", "y")
    assert report(fine).exit_status == 0
    assert (report(fine, dark).status, report(fine, dark).exit_status) == ("unknown", 1)
    assert (report(fine, dark, look_at).status, report(look_at).exit_status) == ("yellow", 1)
    assert (report(fine, dark, look_at, bad).status, report(bad).exit_status) == ("red", 2)


def test_a_check_that_hangs_or_fails_is_unknown_and_hides_nothing(tmp_path: Path) -> None:
    released = threading.Event()

    def hangs(_: Surroundings) -> Finding:
        released.wait(60)
        return green("hangs", "after all")

    def fails(_: Surroundings) -> Finding:
        raise RuntimeError("a defect")

    def may_not(_: Surroundings) -> Finding:
        raise PermissionError(13, "Permission denied", "/secret")

    checks = {"hangs": hangs, "fails": fails, "may_not": may_not, "fine": lambda _: green("fine", "x")}
    began = time.monotonic()
    found = examine(surroundings(tmp_path), checks=checks, limit_s=0.5)
    assert time.monotonic() - began < 30
    released.set()
    assert [finding.check for finding in found.findings] == list(checks)
    assert [finding.status for finding in found.findings] == ["unknown", "unknown", "unknown", "green"]
    assert "RuntimeError: a defect" in found.findings[1].finding
    assert "/secret may not be read" in found.findings[2].finding


def test_every_check_answers_of_a_host_that_tells_nothing(tmp_path: Path) -> None:
    found = examine(surroundings(tmp_path / "none"))
    assert [finding.check for finding in found.findings] == list(CHECKS)
    assert not [finding for finding in found.findings if "the check failed" in finding.finding]
    assert all(finding.remedy for finding in found.findings if finding.status != "green")


# ---- asking ------------------------------------------------------------------------------------------------


def test_a_program_is_asked_with_its_status_and_both_outputs() -> None:
    said = ask([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
    assert (said.status, said.out, said.err, said.problem, said.cut) == (3, "out\n", "err\n", None, False)


def test_a_program_that_does_not_end_is_ended() -> None:
    said = ask([sys.executable, "-c", "print('x', flush=True); import time; time.sleep(600)"], timeout_s=3)
    assert (said.status, said.out) == (None, "x\n")
    assert said.problem is not None
    assert "did not end within 3 s" in said.problem


def test_a_program_that_says_too_much_is_cut_off() -> None:
    said = ask([sys.executable, "-c", "while True: print('x' * 1000)"], max_bytes=10_000, timeout_s=60)
    assert (len(said.out), said.cut, said.problem) == (10_000, True, None)


def test_a_program_that_is_not_there_is_no_error() -> None:
    assert ask(["no-such-program"]).problem == "no-such-program can't be run: No such file or directory"


class Endless(http.server.BaseHTTPRequestHandler):
    """Answers without an end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65_536)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_server_that_answers_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:1")  # which nobody asks
    with http.server.HTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        said = get("127.0.0.1", server.server_port, "/", max_bytes=100_000)
        thread.join(30)
    assert (said.status, len(said.out), said.cut) == (200, 100_000, True)


def test_nobody_there_is_told() -> None:
    assert get("127.0.0.1", 1, "/").problem == "Connection refused"


# ---- looking -----------------------------------------------------------------------------------------------

UNITS = """Id=appliance.service
LoadState=loaded
ActiveState={service}
StatusText=ready · a=b

Id=appliance.socket
LoadState=loaded
ActiveState=active

Id=appliance-bench.timer
LoadState=not-found
ActiveState=inactive
"""


def test_units_that_are_not_installed_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    here = look(None, root=tmp_path, ask=Programs(systemctl=UNITS.format(service="inactive")))
    assert here.units is not None
    assert set(here.units) == {SERVICE, SOCKET}
    assert here.service["StatusText"] == "ready · a=b"


def test_a_service_that_a_connection_would_start_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[object] = []
    monkeypatch.setattr("appliance.doctor.surroundings.get", lambda *wanted: asked.append(wanted))
    here = look(None, root=tmp_path, ask=Programs(systemctl=UNITS.format(service="inactive")))
    assert (asked, here.status) == ([], None)
    assert "starts the service at the first connection" in here.no_status


def test_wrong_settings_do_not_keep_the_rest_from_being_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text("[server]\nport = 70000\n")
    here = look(file, root=tmp_path, ask=Programs())
    assert here.settings_error is not None
    assert "server.port = 70000" in here.settings_error
    assert not here.settings_hidden
    assert here.settings.server.port == 8080


def test_the_services_state_is_looked_at_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, {"var/lib/appliance/models/.lock": ""})
    assert look(None, root=tmp_path, ask=Programs()).state == tmp_path / "var/lib/appliance"
    monkeypatch.setenv("STATE_DIRECTORY", "/elsewhere")
    assert look(None, root=tmp_path, ask=Programs()).state == Path("/elsewhere")
