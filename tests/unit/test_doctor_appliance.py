"""What the doctor says of settings, daemon, units, journal and speed, of appliances made up for it."""

import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import Effective, Settings
from appliance.doctor.asking import Said, ask
from appliance.doctor.checks.journal import check_journal
from appliance.doctor.checks.service import check_daemon, check_settings
from appliance.doctor.checks.speed import check_speed
from appliance.doctor.checks.units import check_units
from appliance.doctor.reach import unreadable
from appliance.doctor.surroundings import MODEL_CHECK, SERVICE, SOCKET, Surroundings
from appliance.observability.self_benchmark import Figures, Ratios, SelfBenchmark, Verdict
from tests.support.doctor import ACCOUNT, Programs, said, status, surroundings
from tests.support.self_benchmark import FINGERPRINT, measured, write_history

# ---- settings, daemon --------------------------------------------------------------------------------------


def test_settings_that_the_services_account_cannot_read_are_red(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    effective = Effective(Settings(), {}, file)
    above = Said(status=1, err=f"find: ‘{file}’: Permission denied\n")
    for answer in (f"{file}\n", above):
        programs = Programs(setpriv=answer)
        here = surroundings(tmp_path, units=ACCOUNT, effective=effective, ask=programs)
        assert said(check_settings(here), "red", f"account appliance can't read {file}")
        assert programs.asked[0][:4] == ["setpriv", "--reuid=appliance", "--regid=appliance", "--init-groups"]
    for answer in ("", Said(status=127, err="setpriv: setresuid failed: Operation not permitted\n")):
        here = surroundings(tmp_path, units=ACCOUNT, effective=effective, ask=Programs(setpriv=answer))
        assert said(check_settings(here), "green", str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may try as another account")
def test_what_another_account_cannot_read_is_found_by_trying(tmp_path: Path) -> None:
    nobody = {SERVICE: {"User": "nobody", "Group": "nogroup"}}
    here = surroundings(tmp_path, units=nobody, ask=ask)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # which others may search, other than a test's own
        place = Path(name)
        place.chmod(0o755)
        file = place / "models/one/weights"
        file.parent.mkdir(parents=True)
        file.write_text("x")
        assert unreadable(here, place / "models", below=True) is None
        file.chmod(0o600)
        assert unreadable(here, place / "models") is None
        assert unreadable(here, place / "models", below=True) == str(file)
        (place / "models").chmod(0o700)
        assert unreadable(here, place / "models") == str(place / "models")
        assert unreadable(here, file) == str(file)


def test_settings_that_are_wrong_are_red_and_those_that_are_hidden_unknown(tmp_path: Path) -> None:
    assert said(check_settings(surroundings(tmp_path)), "green", "no file, 0 settings")
    wrong = surroundings(tmp_path, settings_error="server.port = 70000: expected …")
    assert said(check_settings(wrong), "red", "server.port = 70000")
    hidden = surroundings(tmp_path, settings_error="x can't be read", settings_hidden=True)
    assert said(check_settings(hidden), "unknown", "can't be read")


@pytest.mark.parametrize(
    ("changes", "found", "text"),
    [
        ({}, "green", "ready, tiny, up 2 h, 1 running, 2 waiting"),
        ({"ready": False, "reason": "draining"}, "yellow", "drains"),
        ({"ready": False, "reason": "loading"}, "yellow", "loads"),
        ({"ready": False, "reason": "restarting", "engine": {"last_loss": "SIGSEGV"}}, "red", "(restarting): SIGSEGV"),
        ({"engine": {"losses": 2, "last_loss": "no progress"}}, "yellow", "lost 2 times, last: no progress"),
        ({"engine": {"last_recycle_failure": "no room"}}, "yellow", "no room"),
    ],
)
def test_a_daemon_that_answers(tmp_path: Path, changes: dict[str, Any], found: str, text: str) -> None:
    assert said(check_daemon(surroundings(tmp_path, status=status(**changes))), found, text)


def test_restarts_by_systemd_are_told(tmp_path: Path) -> None:
    here = surroundings(tmp_path, status=status(), units={SERVICE: {"ActiveState": "active", "NRestarts": "3"}})
    assert said(check_daemon(here), "yellow", "restart it 3 times")


@pytest.mark.parametrize(
    ("service", "socket_state", "found", "text"),
    [
        ({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}, "", "red", "exit status 78"),
        ({"ActiveState": "activating", "StatusText": "loading"}, "", "yellow", "starts: loading"),
        ({"ActiveState": "active"}, "", "red", "does not answer"),
        ({"ActiveState": "inactive"}, "active", "yellow", "not running"),
        ({"ActiveState": "inactive"}, "", "yellow", "inactive"),
        ({}, "", "yellow", "none answers on 127.0.0.1:8080"),
    ],
)
def test_a_daemon_that_is_silent(
    tmp_path: Path, service: dict[str, str], socket_state: str, found: str, text: str
) -> None:
    here = surroundings(tmp_path, units={SERVICE: service, SOCKET: {"ActiveState": socket_state}})
    assert said(check_daemon(here), found, text)


def test_a_unit_that_fails_says_why_in_its_own_words(tmp_path: Path) -> None:
    failed = {"ActiveState": "failed", "StatusText": "model x is not installed; run: appliance models pull x"}
    assert said(check_daemon(surroundings(tmp_path, units={SERVICE: failed})), "red", "run: appliance models pull x")
    again = {"ActiveState": "activating", "SubState": "auto-restart", "StatusText": "no room"}
    assert said(check_daemon(surroundings(tmp_path, units={SERVICE: again})), "red", "is started again")
    assert "no room" in check_daemon(surroundings(tmp_path, units={SERVICE: again})).finding


def test_other_units_that_have_failed_are_named(tmp_path: Path) -> None:
    assert said(check_units(surroundings(tmp_path)), "unknown", "systemd does not run here")
    failed, fine = {"ActiveState": "failed", "Result": "exit-code"}, {"ActiveState": "active"}
    pull = "appliance-pull@tiny.service"
    assert said(check_units(surroundings(tmp_path, units={SERVICE: failed, SOCKET: fine})), "green", "none has failed")
    assert said(check_units(surroundings(tmp_path, units={pull: failed})), "yellow", f"{pull} has failed (exit-code)")
    assert said(check_units(surroundings(tmp_path, units={MODEL_CHECK: failed})), "red", MODEL_CHECK)
    assert said(check_units(surroundings(tmp_path, units={SOCKET: failed})), "red", SOCKET)
    assert said(check_units(surroundings(tmp_path, units={SOCKET: failed}, status=status())), "yellow", SOCKET)


def test_bad_settings_name_the_commands_that_find_them(tmp_path: Path) -> None:
    failed = {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}
    assert "appliance config check" in check_daemon(surroundings(tmp_path, units={SERVICE: failed})).remedy


# ---- journal -----------------------------------------------------------------------------------------------


def journal(tmp_path: Path, *answers: Said | str, **units: dict[str, str]) -> Surroundings:
    class InTurn(Programs):
        def __call__(self, command: Any) -> Said:
            self.answers["journalctl"] = answers[min(len(self.asked), len(answers) - 1)]
            return super().__call__(command)

    return surroundings(tmp_path, units=units or {SERVICE: {"ActiveState": "active"}}, ask=InTurn())


def test_errors_of_the_last_day(tmp_path: Path) -> None:
    lines = [json.dumps({"MESSAGE": text, "PRIORITY": "3"}) for text in ("one", "two\n\x1b[31m")]
    lines.append(json.dumps({"MESSAGE": list(b"engine worker lost \xff")}))
    assert said(check_journal(journal(tmp_path, "\n".join(lines))), "yellow", "3 errors within a day, the last: engine")
    assert said(check_journal(journal(tmp_path, "", lines[0])), "green", "no errors")


def test_a_journal_that_is_silent_altogether_is_not_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    empty = check_journal(journal(tmp_path, "", ""))
    assert said(empty, "unknown", "it is empty")
    assert "root" not in empty.remedy
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert said(check_journal(journal(tmp_path, "", "")), "unknown", "nothing at all")
    hint = Said(status=0, err="Hint: You are currently not seeing messages from other users and the system.\n")
    assert said(check_journal(journal(tmp_path, hint)), "unknown", "other users")
    late = Said(problem="journalctl did not end within 8 s")
    assert said(check_journal(journal(tmp_path, late)), "unknown", "did not end within 8 s")
    failed = Said(status=1, err="Failed to open\n")
    assert said(check_journal(journal(tmp_path, failed)), "unknown", "Failed to open")
    assert said(check_journal(surroundings(tmp_path)), "unknown", "systemd does not run here")
    assert said(check_journal(surroundings(tmp_path, units={})), "unknown", "is not installed")


# ---- speed -------------------------------------------------------------------------------------------------


def last_night(verdict: Verdict, *, days: float = 0.5, digest: str = "ab" * 32) -> SelfBenchmark:
    at = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    fingerprint = msgspec.structs.replace(FINGERPRINT, digest=digest)
    return msgspec.structs.replace(measured(1, 20, fingerprint=fingerprint, verdict=verdict), at=at)


def compared(ratio: float) -> Verdict:
    baseline = Figures(tokens_per_s=20 / ratio, ttft_ms=400)
    return Verdict(baseline=baseline, of=9, ratios=Ratios(tokens_per_s=ratio, first_token=1.0), regression=ratio < 0.8)


@pytest.mark.parametrize(
    ("record", "found", "text"),
    [
        (last_night(compared(0.97)), "green", "tokens/s 0.97, first token 1.00 of the median of 9 before"),
        (last_night(compared(0.7)), "yellow", "tokens/s 0.70"),
        (last_night(compared(0.4)), "red", "tokens/s 0.40"),
        (last_night(compared(0.4), days=30), "unknown", "30 days old"),
        (last_night(compared(0.4), digest="cd" * 32), "unknown", "another model"),
        (last_night(Verdict(of=1)), "unknown", "no baseline yet"),
        (last_night(Verdict(changed=("engine",), since_change=Ratios(tokens_per_s=0.6, first_token=1.0))),
         "yellow", "of before a change (engine)"),
    ],
)  # fmt: skip
def test_speed_against_the_hosts_own_past(tmp_path: Path, record: SelfBenchmark, found: str, text: str) -> None:
    here = surroundings(tmp_path, status=status())
    write_history(here.benchmarks, record)
    assert said(check_speed(here), found, text)


def test_a_host_that_was_never_measured_is_not_green(tmp_path: Path) -> None:
    here = surroundings(tmp_path)
    assert said(check_speed(here), "unknown", "never measured")
    here.benchmarks.mkdir(parents=True)
    (here.benchmarks / "x.json").write_text("{")
    assert said(check_speed(here), "unknown", "1 files of no use")
