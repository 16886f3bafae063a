"""What the doctor says of where the appliance listens: hosts whose kernel's table and units are made up."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.doctor.asking import Said
from appliance.doctor.checks.port import SOCKET_ANEW, check_port
from appliance.doctor.checks.service import check_daemon, check_settings
from appliance.doctor.listening import Listener, asked_for, listeners, overlaps
from appliance.doctor.surroundings import SERVICE, SLICE, SOCKET, Surroundings, look
from appliance.doctor.variables import variables_of
from tests.support.doctor import Programs, said, status, surroundings, write

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1\n"
LOCAL, ALL_IPV4 = "0100007F:1F90", "00000000:1F90"
ALL, LOCAL_IPV6 = f"{'0' * 32}:1F90", "00000000000000000000000001000000:1F90"
FROM_SYSTEMD, ACCOUNT = 0, 999
PID = 4711


def host(root: Path, *sockets: tuple[str, int, int], own: tuple[int, ...] = ()) -> Path:
    """Listening sockets as (address, user id, inode); `own`: those that the daemon has open."""
    tables: dict[str, str] = {"tcp": HEAD, "tcp6": HEAD}
    for address, uid, inode in sockets:
        table = "tcp" if len(address) == len(LOCAL) else "tcp6"
        tables[table] += LINE.format(address=address, state="0A", uid=uid, inode=inode)
    write(root, {f"proc/net/{name}": table for name, table in tables.items()})
    opened = root / f"proc/{PID}/fd"
    opened.mkdir(parents=True)
    for number, inode in enumerate(own):
        (opened / str(number)).symlink_to(f"socket:[{inode}]")
    (opened / "9").symlink_to("anon_inode:[eventpoll]")
    return root


def units(listen: str, service: str = "active", **changes: str) -> dict[str, dict[str, str]]:
    return {
        SERVICE: {"ActiveState": service, "MainPID": str(PID if service == "active" else 0)},
        SOCKET: {"ActiveState": "active", "Listen": f"{listen} (Stream)", **changes},
    }


def test_the_kernels_table_is_read(tmp_path: Path) -> None:
    host(tmp_path, (LOCAL, 0, 1), (ALL_IPV4, 5, 2), (ALL, 0, 3), (LOCAL_IPV6, 0, 4))
    with (tmp_path / "proc/net/tcp").open("a") as table:
        table.write(LINE.format(address=LOCAL, state="01", uid=0, inode=5))
    assert listeners(tmp_path) == [
        Listener("127.0.0.1", 8080, 0, 1), Listener("0.0.0.0", 8080, 5, 2),
        Listener("::", 8080, 0, 3), Listener("::1", 8080, 0, 4),
    ]  # fmt: skip


def test_a_real_socket_is_in_the_real_table() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening.getsockname() in [listener.address for listener in listeners(Path("/"))]


def test_what_a_socket_unit_asks_for() -> None:
    listen = (
        "127.0.0.1:8080 (Stream)\n[::]:80 (Stream)\n[fe80::1%eth0]:81 (Stream)\n/run/x.sock (Stream)\n[::]:1 (Datagram)"
    )
    assert asked_for(listen) == (("127.0.0.1", 8080), ("::", 80), ("fe80::1", 81))
    assert asked_for("") == ()


def test_addresses_that_can_not_both_be_had() -> None:
    assert overlaps(("127.0.0.1", 80), ("0.0.0.0", 80))
    assert overlaps(("localhost", 80), ("127.0.0.1", 80))
    assert not overlaps(("127.0.0.1", 80), ("127.0.0.2", 80))
    assert not overlaps(("127.0.0.1", 80), ("127.0.0.1", 81))


# ---- exposure ----------------------------------------------------------------------------------------------


def test_under_the_socket_unit_the_settings_do_not_count(tmp_path: Path) -> None:
    host(tmp_path, (LOCAL, FROM_SYSTEMD, 7), own=(7,))
    wanted = {"server": {"host": "0.0.0.0"}}
    here = surroundings(tmp_path, settings=wanted, units=units("127.0.0.1:8080"), status=status())
    finding = check_port(here)
    assert said(
        finding, "yellow", "127.0.0.1:8080, the appliance's (this host alone: optional/appliance.socket.d/lan.conf"
    )
    assert "server.host = 0.0.0.0 does not count" in finding.finding
    assert (finding.facts["listens"], finding.facts["this_host_alone"]) == (["127.0.0.1:8080"], True)
    untouched = surroundings(tmp_path, units=units("127.0.0.1:8080"), status=status())
    assert said(check_port(untouched), "green", "optional/appliance.socket.d/lan.conf is for the LAN")


@pytest.mark.parametrize("own", [(7,), ()])  # without root its open files are not to be seen
def test_a_socket_unit_for_the_lan_is_not_this_host_alone(tmp_path: Path, own: tuple[int, ...]) -> None:
    host(tmp_path, (ALL, FROM_SYSTEMD, 7), own=own)
    finding = check_port(surroundings(tmp_path, units=units("[::]:8080"), status=status()))
    assert said(finding, "green", "[::]:8080, the appliance's (other hosts too: appliance.socket says so)")
    assert finding.facts["this_host_alone"] is False
    asleep = check_port(surroundings(tmp_path, units=units("[::]:8080", "inactive")))
    assert said(asleep, "green", "[::]:8080, held by appliance.socket (other hosts too")


def test_without_the_socket_unit_it_is_the_daemons_own(tmp_path: Path) -> None:
    host(tmp_path, (ALL_IPV4, ACCOUNT, 7), own=(7,))
    here = surroundings(tmp_path, units={SERVICE: units("")[SERVICE]}, status=status())
    assert said(check_port(here), "green", "0.0.0.0:8080, the appliance's")
    assert check_port(here).facts["this_host_alone"] is False
    by_hand = surroundings(tmp_path, status=status())
    assert said(check_port(by_hand), "green", "0.0.0.0:8080, the appliance's")


# ---- a socket unit without a socket ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sockets",
    [
        [(LOCAL, ACCOUNT, 7)],  # started anew: the daemon listens itself, as the settings have it
        [(LOCAL, FROM_SYSTEMD, 7)],  # still has what the unit was before
    ],
)
def test_a_socket_unit_that_is_not_functional(tmp_path: Path, sockets: list[tuple[str, int, int]]) -> None:
    host(tmp_path, *sockets, own=(7,))
    finding = check_port(surroundings(tmp_path, units=units("[::]:8080"), status=status()))
    assert said(finding, "yellow", "its socket, [::]:8080, is not in use: 127.0.0.1:8080 listens without it")
    assert finding.remedy == SOCKET_ANEW


def test_a_daemon_with_the_units_address_and_not_its_socket(tmp_path: Path) -> None:
    host(tmp_path, (LOCAL, ACCOUNT, 7), own=(7,))
    finding = check_port(surroundings(tmp_path, units=units("127.0.0.1:8080"), status=status()))
    assert said(finding, "yellow", "is not in use")


def test_a_socket_unit_without_a_socket_starts_nothing(tmp_path: Path) -> None:
    host(tmp_path)
    with (tmp_path / "proc/net/tcp").open("a") as table:  # somebody else's
        table.write(LINE.format(address="0100007F:0016", state="0A", uid=0, inode=1))
    here = surroundings(tmp_path, units=units("[::]:8080", "inactive"))
    assert said(check_port(here), "yellow", "nobody can connect")
    assert said(check_daemon(here), "yellow", "has no socket to start it by")
    assert check_daemon(here).remedy == SOCKET_ANEW


# ---- others ------------------------------------------------------------------------------------------------


def test_a_port_that_another_program_has_is_red(tmp_path: Path) -> None:
    host(tmp_path, (LOCAL, 1000, 7))
    assert said(check_port(surroundings(tmp_path)), "red", "another program (user id 1000)")
    active = surroundings(tmp_path, units={SERVICE: {"ActiveState": "active"}})
    assert said(check_port(active), "red", "does not answer as the appliance")
    assert said(check_port(surroundings(tmp_path, status=status())), "green", "the appliance's")
    waiting = surroundings(tmp_path, units={SOCKET: {"ActiveState": "active"}})
    assert said(check_port(waiting), "green", "held by appliance.socket")


@pytest.mark.parametrize("sub_state", ["auto-restart", "start"])
def test_a_service_whose_port_another_program_has_does_not_come_by_waiting(tmp_path: Path, sub_state: str) -> None:
    host(tmp_path, (ALL, 1000, 7))
    service = {"ActiveState": "activating", "SubState": sub_state, "MainPID": "0"}
    finding = check_daemon(surroundings(tmp_path, units={SERVICE: service}))
    assert said(finding, "red", "another program has its port: [::]:8080")
    assert "check of the port" in finding.remedy
    assert "wait" not in finding.remedy


def test_a_failed_socket_unit_has_its_own_port_taken(tmp_path: Path) -> None:
    host(tmp_path, (LOCAL, 1000, 7))
    wanted = {"server": {"port": 9000}}
    failed = units("127.0.0.1:8080", "inactive", ActiveState="failed")
    finding = check_port(surroundings(tmp_path, settings=wanted, units=failed))
    assert said(finding, "red", "127.0.0.1:8080 is held by another program")
    assert "systemctl edit appliance.socket" in finding.remedy


def test_a_port_that_is_free_is_free_on_an_address_of_this_host_only(tmp_path: Path) -> None:
    assert said(check_port(surroundings(tmp_path)), "green", "free")
    elsewhere = surroundings(tmp_path, settings={"server": {"host": "192.0.2.1"}})
    assert said(check_port(elsewhere), "red", "nothing can listen at 192.0.2.1")
    with socket.socket() as listening:  # a real one: what others have is no matter of binding to another port
        listening.bind(("127.0.0.1", 0))
        assert said(check_port(surroundings(tmp_path)), "green", "free")
    assert said(check_port(surroundings(tmp_path, settings={"server": {"port": 0}})), "unknown", "server.port = 0")


ANY = "0.0.0.0/0 ::/0"
HERE = "127.0.0.0/8 ::1/128"


def test_whose_packets_pass_is_told_and_that_none_do_is_yellow(tmp_path: Path) -> None:
    """As `systemctl show` has it: what a unit allows, and its slice."""

    def found(slice_allows: str, socket: str = "active", deny: str = ANY) -> tuple[str, str, object]:
        listed = units("[::]:8080", IPAddressDeny=deny, IPAddressAllow=HERE)
        listed[SOCKET]["ActiveState"] = socket
        listed[SERVICE] |= {"IPAddressDeny": deny, "IPAddressAllow": HERE}
        listed[SLICE] = {"IPAddressAllow": slice_allows}
        finding = check_port(surroundings(tmp_path, status=status(), units=listed))
        return finding.status, finding.finding, finding.facts["lets_in"]

    host(tmp_path, (ALL, FROM_SYSTEMD, 7), own=(7,))
    lan = "10.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 fc00::/7"
    for unit in ("active", "inactive"):
        colour, text, networks = found(" ".join(reversed(lan.split())), unit)  # its order is not always the same
        assert (colour, networks) == ("green", lan.split())
        assert "(other hosts too: 10.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12 and 2 more)" in text
        colour, text, networks = found("", unit)
        assert (colour, networks) == ("yellow", [])
        assert "the packets of none are let in" in text
        assert found(lan, unit, deny="")[2] is None
    assert "(other hosts too: 192.168.7.0/24)" in found("192.168.7.0/24")[1]


# ---- where the daemon is asked, and with whose settings ----------------------------------------------------

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

    def get(host: str, port: int, _: str) -> Said:
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
