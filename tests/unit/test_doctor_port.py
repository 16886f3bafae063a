"""What the doctor says of where the appliance listens: hosts whose kernel's table and units are made up."""

import socket
from pathlib import Path

import pytest

from appliance.doctor.checks.port import SOCKET_ANEW, check_port
from appliance.doctor.checks.service import check_daemon
from appliance.doctor.listening import Listener, asked_for, listeners, overlaps
from appliance.doctor.surroundings import SERVICE, SLICE, SOCKET
from tests.support.doctor import said, status, surroundings
from tests.support.sockets import ACCOUNT, ALL, ALL_IPV4, FROM_SYSTEMD, LINE, LOCAL, LOCAL_IPV6, PID, host


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
