"""Where the doctor asks the daemon, and with whose settings: those of its units, on appliances made up for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.doctor.asking import Said
from appliance.doctor.checks.service import check_settings
from appliance.doctor.surroundings import Surroundings, look
from appliance.doctor.variables import variables_of
from tests.support.doctor import Programs, said, write
from tests.support.sockets import ALL_IPV4, FROM_SYSTEMD, PID, host

SHOWN = """Id=appliance.service
LoadState=loaded
ActiveState=active
MainPID={pid}
ExecStart={{ path=/opt/appliance ; argv[]=/opt/appliance serve --config /etc/appliance/appliance.toml ; pid=0 }}
Environment={environment}

Id=appliance.socket
LoadState=loaded
ActiveState=active
Listen=127.0.0.1:8080 (Stream)
Listen=[::1]:8080 (Stream)
"""


def answers(monkeypatch: pytest.MonkeyPatch, *places: tuple[str, int]) -> list[tuple[str, int]]:
    """Have the appliance answer at `places` and nobody elsewhere; returns where was asked."""
    asked: list[tuple[str, int]] = []

    def get(host: str, port: int, _: str, *, tls: bool) -> Said:
        assert not tls
        asked.append((host, port))
        there = (host, port) in places
        return Said(status=200, out='{"ready": true, "engine": {}}') if there else Said(problem="Connection refused")

    monkeypatch.setattr("appliance.doctor.surroundings.get", get)
    return asked


def looked(
    root: Path, settings: Mapping[str, Any] | None = None, environment: str = "", pid: int = PID
) -> Surroundings:
    if settings is not None:
        write(root, {"etc/appliance/appliance.toml": "\n".join(f"[{key}]\n{value}" for key, value in settings.items())})
    return look(None, root=root, ask=Programs(systemctl=SHOWN.format(environment=environment, pid=pid)))


def test_the_daemon_is_asked_where_it_really_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, ("127.0.0.1", 8080))
    host(tmp_path, (ALL_IPV4, FROM_SYSTEMD, 7), own=(7,))
    here = looked(tmp_path, {"server": "port = 9000"})
    assert here.settings.server.port == 9000
    assert (here.status is not None, here.address, asked) == (True, ("127.0.0.1", 8080), [("127.0.0.1", 8080)])
    assert here.socket_addresses == (("127.0.0.1", 8080), ("::1", 8080))


def test_without_root_the_socket_unit_is_asked_before_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, ("127.0.0.1", 9000))
    here = looked(tmp_path, {"server": "port = 9000"}, pid=1)
    assert (here.status is not None, here.address) == (True, ("127.0.0.1", 9000))
    assert asked == [("127.0.0.1", 8080), ("127.0.0.1", 9000)]


@pytest.mark.parametrize(
    ("shown", "host"),
    [
        ("PYTHONFAULTHANDLER=1 APPLIANCE__SERVER__HOST=::1 X=2", "::1"),
        ('"A=b c" "APPLIANCE__SERVER__HOST=a \\"b\\""', 'a "b"'),
        ("$'A=it\\'s' $'APPLIANCE__SERVER__HOST=a b'", "a b"),
        ("[unprintable] A=b", "127.0.0.1"),
    ],
)
def test_variables_of_the_unit_count_as_for_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, host: str
) -> None:
    answers(monkeypatch)
    monkeypatch.setenv("APPLIANCE__SERVER__PORT", "1")  # which the daemon does not see
    here = looked(tmp_path, {"server": "port = 9000"}, shown)
    assert (here.settings.server.host, here.settings.server.port) == (host, 9000)


def test_files_of_variables_count_over_the_units_own(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "etc/default/one": "# A=1\n; B=2\nAPPLIANCE__SERVER__HOST='a b' c\nHOST=\\\nd\n\nX = 'y\n",
            "etc/default/two": 'HOST="e f" \nnothing\n',
        },
    )
    files = "/etc/default/one (ignore_errors=no)\n/nowhere (ignore_errors=yes)\n/etc/default/two (ignore_errors=no)"
    unit = {"Environment": "HOST=unit OTHER=1", "EnvironmentFiles": files}
    assert variables_of({"EnvironmentFiles": files.splitlines()[0]}, tmp_path)["HOST"] == "d"
    assert variables_of(unit, tmp_path) == {
        "APPLIANCE__SERVER__HOST": "a b c", "HOST": "e f", "OTHER": "1", "X": "'y",
    }  # fmt: skip


def test_wrong_variables_of_the_unit_are_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch)
    here = looked(tmp_path, {}, "APPLIANCE__SERVER__PROT=1")
    assert said(check_settings(here), "red", "APPLIANCE__SERVER__PROT")


def test_a_missing_file_that_the_unit_names_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch)
    assert said(check_settings(looked(tmp_path)), "red", "etc/appliance/appliance.toml: no such file")
