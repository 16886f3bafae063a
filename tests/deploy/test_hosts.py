"""The test hosts themselves: systemd runs, nothing leads out, and nothing is left of them, whatever ends the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import __version__
from tests.deploy.conftest import NewHost, on_both
from tests.support.hosts import CommandFailed, Lab, Suite
from tests.support.hosts.machine import hierarchies, wait_until

ROOT = Path(__file__).parents[2]

# A run of its own, which says when its host is ready and then waits to be killed.
OTHER_RUN = """
from tests.support.hosts import base_root, open_lab
with open_lab(base_root()) as lab:
    lab.host("left").start()
    with lab.host("off").disk():
        print(lab.gateway, flush=True)
        input()
"""


def groups(prefix: str) -> list[Path]:
    return [group for tree in hierarchies() for group in tree.glob(f"{prefix}-*")]


@on_both
def test_a_host_is_a_debian_whose_systemd_is_well_and_which_leads_nowhere(new_host: NewHost, suite: Suite) -> None:
    host = new_host()
    assert host.ask("systemctl is-system-running") == "running"
    assert host.ask(". /etc/os-release; echo $VERSION_CODENAME") == suite.name
    assert host.ask("systemctl --version").startswith(f"systemd {suite.systemd} ")
    assert host.ask("python3 --version").startswith(f"Python {suite.python}.")
    assert host.ask("ldd --version").splitlines()[0].endswith(f" 2.{suite.glibc}")
    assert host.ask("hostname") == "one"
    assert "default" not in host.ask("ip route show table all")
    assert host.run("ping -c 1 -W 1 1.1.1.1", check=False).returncode != 0


def test_hosts_see_each_other_on_the_network_and_nothing_else_of_each_other(new_host: NewHost, lab: Lab) -> None:
    one, two = new_host("one"), new_host("two")
    one.run(f"ping -c 1 -W 5 {two.address} && ping -c 1 -W 5 {lab.gateway}")
    one.run("systemd-run --unit=only-here sleep 1000")
    assert "only-here" in one.ask("systemctl list-units --no-legend")
    assert "only-here" not in two.ask("systemctl list-units --no-legend")
    identities = {(host.ask("cat /etc/machine-id"), host.ask("cat /etc/ssh/*.pub")) for host in (one, two)}
    assert len(identities) == 2
    assert [host.ssh("hostname").stdout for host in (one, two)] == ["one\n", "two\n"]


def test_a_command_has_a_status_a_limit_and_files_go_both_ways(new_host: NewHost) -> None:
    host = new_host()
    host.put(b"\0 any bytes", "/srv/new directory/file", mode=0o600)
    assert host.get("/srv/new directory/file") == b"\0 any bytes"
    assert host.ask(["stat", "-c", "%a %U", "/srv/new directory/file"]) == "600 root"
    with pytest.raises(CommandFailed, match="it says why"):
        host.run("echo it says why >&2; exit 3")
    with pytest.raises(subprocess.TimeoutExpired):
        host.run("sleep 1234", timeout_s=0.5)
    assert host.run(["pgrep", "-f", "sleep 1234"], check=False).returncode == 1


def test_reboot_power_cut_and_off_keep_the_disk(new_host: NewHost) -> None:
    host = new_host()
    host.run("echo kept >/srv/kept && sync")
    host.reboot()
    host.power_cut()
    assert not host.is_on
    with host.disk() as root:
        assert (root / "srv/kept").read_text() == "kept\n"
        (root / "srv/from-outside").write_text("seen")
    host.start()
    assert host.get("/srv/from-outside") == b"seen"
    assert len(host.ask("journalctl --list-boots --quiet --no-pager").splitlines()) >= 3
    host.off()
    assert not host.is_on


def test_a_removed_host_leaves_no_process_cgroup_or_file(lab: Lab) -> None:
    host = lab.host("gone").start()
    prefix = f"eca{lab.gateway.split('.')[2]}"
    places = [group for group in groups(prefix) if group.name.endswith("-gone")]
    assert places
    directory = host.upper.parent
    lab.remove(host)
    assert not any(place.exists() for place in places)
    assert not directory.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_run_that_was_ended_when_the_next_begins(lab: Lab, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        gateway = run.stdout.readline().strip()
        assert gateway != lab.gateway
        slot = gateway.split(".")[2]
        os.kill(run.pid, number)
        run.wait(60)
    if number == signal.SIGKILL:  # its hosts end by themselves; the rest is for the next run
        wait_until(lambda: not guests_of(slot), 60, lambda: f"still running: {guests_of(slot)}")
        with subprocess.Popen(
            [sys.executable, "-c", OTHER_RUN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as following:
            out, _ = following.communicate("\n", 90)
            assert out.strip() == gateway
    assert guests_of(slot) == []
    assert groups(f"eca{slot}") == []
    assert not Path(f"/sys/class/net/eca{slot}").exists()
    assert f"/runs/{slot}/" not in Path("/proc/self/mounts").read_text()


def guests_of(slot: str) -> list[int]:
    """Process ids in the cgroups of a run's hosts."""
    listed = [pids for group in groups(f"eca{slot}") for pids in group.rglob("cgroup.procs")]
    return [int(pid) for pids in listed if pids.exists() for pid in pids.read_text().split()]


def test_the_appliance_is_there_without_a_network(new_appliance: NewHost) -> None:
    host = new_appliance()
    assert host.ask("/opt/appliance/current/bin/appliance --version") == f"appliance {__version__}"
