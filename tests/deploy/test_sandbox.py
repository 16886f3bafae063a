"""What the service can't do, tried by a program in its place under its very unit; and that the engine works there.

Each attempt is also made by the same account outside of the sandbox, where it works: what fails inside fails for the
sandbox's sake.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.deploy.conftest import NewHost, on_both
from tests.support.hosts import Host, Lab, Suite
from tests.support.hosts.machine import wait_until
from tests.support.units import (
    SYSTEM,
    add_optional,
    drop_in,
    in_the_service,
    install_units,
    outside,
    probed,
    probing,
)

OWN = ["/var/lib/appliance", "/var/cache/appliance", "/run/appliance"]
PRIVATE = ["/tmp", "/var/tmp"]
OTHERS = [
    "/srv",
    "/home",
    "/opt/appliance",
    "/usr/local",
    "/etc",
    "/etc/appliance",
    "/etc/systemd/system",
    "/var",
    "/run",
]
ABROAD = "198.51.100.7"  # no private network (RFC 5737)
ANY_CALL = "SystemCallFilter=\nSystemCallFilter=@system-service"
NARROW = "[Slice]\nIPAddressAllow=\nIPAddressAllow=192.168.77.0/24\n"

pytestmark = on_both


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[Host]:
    """A host with the units, and with places and programs that anybody may use, but for the sandbox."""
    made = lab.host("sandbox").start()
    install_units(made)
    made.run(f"for place in {' '.join(OTHERS)}; do mkdir -p $place/open && chmod 1777 $place/open; done")
    made.run("mkdir -m 755 /home/alice && echo letter >/home/alice/letter")
    made.run("mkdir -p /run/user/1000 && echo secret >/run/user/1000/secret")
    made.run("install -m 4755 /usr/bin/id /usr/local/bin/id-of-root && install /usr/bin/cat /usr/local/bin/cat-of-root")
    capability = "import os, struct; value = struct.pack('<5I', 0x02000001, 1 << 1, 0, 0, 0)"  # dac_override, effective
    made.run(
        ["python3", "-c", f"{capability}; os.setxattr('/usr/local/bin/cat-of-root', 'security.capability', value)"]
    )
    yield made
    lab.remove(made)


@pytest.fixture(scope="module")
def neighbour(lab: Lab, host: Host) -> Iterator[Host]:
    """A host on the same wire, with an address of the LAN and one from elsewhere, and a web server on both."""
    made = lab.host("neighbour").start()
    install_units(made)
    made.run(f"ip address add {ABROAD}/32 dev host0")
    host.run(f"ip route add {ABROAD}/32 dev host0")
    made.run("systemd-run --unit=web python3 -m http.server 80")
    wait_until(lambda: made.run("curl -sf localhost", check=False).returncode == 0, 20, lambda: "no web server")
    yield made
    lab.remove(made)


@pytest.fixture(autouse=True)
def tidy(host: Host) -> Iterator[None]:
    """Each test begins with the units as they are shipped."""
    yield
    host.run("systemctl stop appliance.socket appliance.service; rm -rf /run/systemd/system/*.d", check=False)
    host.run(f"rm -rf {SYSTEM}/appliance.service.d {SYSTEM}/appliance.socket.d && systemctl daemon-reload")
    host.run("systemctl reset-failed")


def both(host: Host, attempts: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What comes of `attempts` inside, and outside."""
    return in_the_service(host, attempts), outside(host, attempts)


def test_it_writes_to_its_own_directories_and_nowhere_else(host: Host) -> None:
    others = [f"write={place}/open" for place in OTHERS] + ["write=/run/lock", "write=/dev/shm"]
    own = [f"write={place}" for place in OWN]
    private = [f"write={place}" for place in PRIVATE]
    inside, without = both(host, [*others, *private])
    assert inside == dict.fromkeys(others, "EROFS") | {"write=/home/open": "EACCES"} | dict.fromkeys(private, "")
    assert without == dict.fromkeys([*others, *private], "")
    assert in_the_service(host, own) == dict.fromkeys(own, "")


def test_what_it_writes_to_tmp_nobody_else_sees(host: Host) -> None:
    host.run("rm -f /tmp/probe /var/tmp/probe")
    assert in_the_service(host, [f"write={place}" for place in PRIVATE]) == dict.fromkeys(
        [f"write={place}" for place in PRIVATE], ""
    )
    assert host.run("ls /tmp/probe /var/tmp/probe", check=False).returncode != 0


def test_its_directories_are_for_its_account_alone(host: Host) -> None:
    in_the_service(host, ["write=/var/lib/appliance"])
    modes = {line.split()[1]: line.split()[0] for line in host.ask("stat -c '%a/%U %n' /var/*/appliance").splitlines()}
    assert modes == {"/var/lib/appliance": "750/appliance", "/var/cache/appliance": "750/appliance"}
    drop_in(host, "appliance.service", "")
    drop_in(host, "appliance.service", "[Service]\nType=exec\nExecStart=\nExecStart=/usr/bin/sleep 1000\n")
    host.run("systemctl start appliance.service")
    assert host.ask("stat -c '%a %U' /run/appliance") == "700 appliance"
    host.run("systemctl stop appliance.service")
    assert host.run("ls /run/appliance", check=False).returncode != 0


def test_it_reads_no_home(host: Host) -> None:
    homes = ["read=/home", "read=/home/alice/letter", "read=/run/user", "read=/run/user/1000/secret"]
    inside, without = both(host, homes)
    assert inside == dict.fromkeys(homes, "EACCES")
    assert without == dict.fromkeys(homes, "")
    assert in_the_service(host, ["read=/root"]) == {"read=/root": "EACCES"}


def test_it_gains_no_privileges(host: Host) -> None:
    as_root, with_capability = "run=/usr/local/bin/id-of-root -u", "run=/usr/local/bin/cat-of-root /etc/shadow"
    make, namespace = "make_set_uid=/var/lib/appliance", "user_namespace="
    inside, without = both(host, [as_root, with_capability, make, namespace])
    uid = host.ask("id -u appliance")
    assert inside == {as_root: uid, with_capability: "exit 1", make: "EPERM", namespace: "EPERM"}
    assert without[as_root] == "0"
    assert without[with_capability].startswith("root:")
    assert (without[make], without[namespace]) == ("", "")


def test_the_kernel_holds_it_to_that(host: Host) -> None:
    names = ["CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"]
    inside = in_the_service(host, [f"status={name}" for name in names])
    assert list(inside.values()) == ["0" * 16] * 4 + ["1", "2"]


def test_it_sees_no_processes_but_its_own(host: Host) -> None:
    inside, without = both(host, ["processes=", "read=/proc/1/status"])
    assert inside == {"processes=": host.ask("id -u appliance"), "read=/proc/1/status": "ENOENT"}
    assert "0" in without["processes="].split()
    assert without["read=/proc/1/status"] == ""


def test_it_sees_the_machine_that_it_computes_on(host: Host) -> None:
    needed = ["read=/proc/meminfo", "read=/proc/cpuinfo", "read=/sys/devices/system/cpu", "read=/proc/self/cgroup"]
    assert in_the_service(host, needed) == dict.fromkeys(needed, "")


def test_system_calls_that_it_has_no_use_for_fail(host: Host) -> None:
    inside, without = both(host, ["io_uring=", "become_root=", "families="])
    assert inside == {"io_uring=": "EPERM", "become_root=": "EPERM", "families=": "inet"}
    assert (without["io_uring="], without["families="].split()[0]) == ("EFAULT", "netlink")


def test_it_reaches_the_journal_and_the_service_manager(host: Host) -> None:
    """Without connect(); what does not fit a datagram goes by a sealed file in memory."""
    told = ["journal=20", "journal=500000", "notify=probed"]
    assert in_the_service(host, told) == dict.fromkeys(told, "")
    found = host.ask("journalctl --no-pager -o json --all -u appliance.service PROBE_CHARS=500000 -n 1")
    assert len(json.loads(found)["MESSAGE"]) == 500_000


def test_it_opens_no_connection_on_the_lan_or_beyond(host: Host, neighbour: Host) -> None:
    connections = [f"connect={neighbour.address}:80", f"connect={ABROAD}:80", "connect=127.0.0.1:22"]
    connections += ["connect_unix=/run/systemd/journal/stdout"]
    inside, without = both(host, connections)
    assert inside == dict.fromkeys(connections, "EPERM")
    assert without == dict.fromkeys(connections, "")


def test_packets_beyond_the_lan_are_dropped_whatever_code_runs_there(host: Host, neighbour: Host) -> None:
    """As if the system call filter had been got around: the addresses are the kernel's, by the control group."""
    lan, abroad = [f"connect={neighbour.address}:80"], [f"connect={ABROAD}:80", f"send={ABROAD}:9"]
    found = in_the_service(host, [*lan, *abroad], ANY_CALL)
    assert found == dict.fromkeys(lan, "") | {abroad[0]: "timeout", abroad[1]: "EPERM"}
    assert outside(host, [*lan, *abroad]) == dict.fromkeys([*lan, *abroad], "")


def test_a_site_narrows_its_lan_in_one_place(host: Host, neighbour: Host) -> None:
    lan = f"send={neighbour.address}:9"
    assert in_the_service(host, [lan], ANY_CALL) == {lan: ""}
    drop_in(host, "system-appliance.slice", NARROW, name="60-site.conf")
    assert in_the_service(host, [lan], ANY_CALL) == {lan: "EPERM"}


@pytest.mark.parametrize("listener", ["its own socket", "the socket unit's"])
def test_the_lan_may_connect_and_nobody_else(host: Host, neighbour: Host, listener: str) -> None:
    if listener == "its own socket":
        probing(host, ["accept=0.0.0.0:8080"])
    else:
        add_optional(host, "appliance.socket.d/lan.conf")
        probing(host, ["accept="])
        host.run("systemctl start appliance.socket")
    host.run("rm -f /run/probe.json; systemctl start --no-block appliance.service")
    wait_until(
        lambda: host.run("test -e /run/appliance/accepting", check=False).returncode == 0, 20, lambda: "not accepting"
    )
    lan, abroad = (f"connect_from={source}>{host.address}:8080" for source in (neighbour.address, ABROAD))
    assert outside(neighbour, [abroad, lan]) == {abroad: "timeout", lan: ""}
    wait_until(
        lambda: host.run("systemctl is-active appliance", check=False).returncode == 3, 20, lambda: "still there"
    )
    assert list(probed(host).values()) == [neighbour.address]


def test_by_default_the_socket_unit_listens_on_this_host_only(host: Host, neighbour: Host) -> None:
    host.run("systemctl start appliance.socket")
    assert "127.0.0.1:8080" in host.ask("ss -Hltn sport = :8080")
    there = f"connect={host.address}:8080"
    assert outside(neighbour, [there]) == {there: "ECONNREFUSED"}


def test_with_the_socket_unit_it_needs_no_network_of_its_own(host: Host, neighbour: Host) -> None:
    """private-network.conf: then nothing is reached even without connect(), and clients are served all the same."""
    for name in ("appliance.service.d/private-network.conf", "appliance.socket.d/lan.conf"):
        add_optional(host, name)
    fast = f"connect_fast={neighbour.address}:80"
    probing(host, [fast, "accept="])
    host.run("systemctl start appliance.socket")
    there = f"connect_from={neighbour.address}>{host.address}:8080"
    client = threading.Thread(target=outside, args=(neighbour, [there]))
    client.start()
    host.run("systemctl start appliance.service")
    client.join()
    assert probed(host) == {fast: "ENETUNREACH", "accept=": neighbour.address}


def test_a_token_of_a_hub_is_for_the_process_that_pulls_and_may_be_missing(host: Host, suite: Suite) -> None:
    # 257 keeps it root's, and lets the account read it by an access control list.
    mode = "400 appliance" if suite.systemd < 257 else "440 root"
    show = "stat -c '%%a %%U' ${HF_TOKEN_PATH}; cat ${HF_TOKEN_PATH}"
    drop_in(host, "appliance-pull@.service", f'[Service]\nExecStart=\nExecStart=/bin/sh -c "{show}"\n')
    said = "journalctl --no-pager -o cat -t sh -u appliance-pull@any.service"
    host.run("systemctl start appliance-pull@any.service")
    assert host.ask(said) == mode
    host.put("hf_secret", "/etc/appliance/hf-token", mode=0o600)
    host.run("systemctl start appliance-pull@any.service")
    assert host.ask(said).splitlines()[-2:] == [mode, "hf_secret"]
    assert outside(host, ["read=/etc/appliance/hf-token"]) == {"read=/etc/appliance/hf-token": "EACCES"}


def test_systemd_finds_nothing_wrong_with_the_installed_units(host: Host) -> None:
    host.run("mkdir -p /opt/appliance/current/bin && install /bin/true /opt/appliance/current/bin/appliance")
    units = host.ask(f"cd {SYSTEM} && ls -d *appliance*.service *appliance*.socket *appliance*.slice *appliance*.timer")
    done = host.run(["systemd-analyze", "verify", "--man=no", *units.replace("@", "@any").split()])
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("unit", ["appliance", "appliance-bench", "appliance-model-check", "appliance-pull@any"])
def test_the_sandbox_is_as_tight_as_systemd_can_tell(host: Host, unit: str) -> None:
    """With all drop-ins that are installed, the LAN's among them; 20 is an exposure of 2.0 of 10."""
    done = host.run(f"systemd-analyze security --no-pager --offline=true --threshold=20 {unit}.service")
    assert "Overall exposure level" in done.stdout


def test_the_engine_works_in_the_sandbox(new_appliance: NewHost, smollm2_store: Path) -> None:
    host = new_appliance(shared={smollm2_store: "/srv/store"})
    install_units(host)
    host.run("systemctl stop appliance.socket appliance.service; systemctl reset-failed 'appliance*'", check=False)
    host.run("mkdir -p /var/lib/appliance/models && cp -r /srv/store/. /var/lib/appliance/models")
    host.run("chown -R appliance: /var/lib/appliance/models")
    host.put('[models]\npreferred = ["smollm2-135m-instruct"]\n', "/etc/appliance/appliance.toml")
    host.run("systemctl start appliance.socket appliance.service", timeout_s=110)
    command = "/opt/appliance/current/bin/appliance chat --temperature 0 --max-tokens 8 'Say hello.'"
    assert "hello" in host.ask(command).lower()
    main = host.ask("systemctl show --value -p MainPID appliance.service")
    (worker,) = host.ask(f"pgrep -P {main}").split()
    confined = host.ask(f"grep -h -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/{main}/status /proc/{worker}/status")
    assert (
        confined.split("\n")[:3]
        == confined.split("\n")[3:]
        == ["CapBnd:\t" + "0" * 16, "NoNewPrivs:\t1", "Seccomp:\t2"]
    )
    assert "Operation not permitted" not in host.ask("journalctl -u appliance --no-pager")
