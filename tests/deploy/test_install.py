"""`appliance install --system` on real hosts without a network: install, upgrade, what goes wrong, removal."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import __version__
from tests.deploy.conftest import FIRST, NEWER, WHEELS, NewHost, on_both
from tests.support.hosts import CommandFailed, Host

INSTALL = f"{FIRST}/bin/appliance install --system --wheels {WHEELS}"
SETTINGS = "/etc/appliance/appliance.toml"
FAKE = '[engine]\npipeline = "fake"\n'
INSTALL_TIMEOUT_S = 600.0  # 10 s on an idle machine

pytestmark = pytest.mark.timeout(1200, func_only=True)

READY = "curl -sf --retry 20 --retry-connrefused --retry-all-errors --retry-delay 1 http://127.0.0.1:8080/readyz"


@pytest.fixture
def new_bare(new_host: NewHost, carried: Path, wheels: Path, newer_wheels: Path) -> Callable[[], Host]:
    """A host that has only what the first step of an installation brings, and settings for the fake engine."""

    def start() -> Host:
        host = new_host(over=[carried], shared={wheels: WHEELS, newer_wheels: "/srv/newer"})
        host.put(FAKE, "/etc/appliance/appliance.toml")
        return host

    return start


def release_that_runs(host: Host) -> str:
    pid = host.ask("systemctl show --value -p MainPID appliance.service")
    return host.ask(f"tr '\\0' '\\n' </proc/{pid}/cmdline | head -n1")


def left(host: Host) -> set[str]:
    """What installations may leave on a host: names of files and accounts."""
    places = "/etc /opt /usr/local /var/lib /var/cache"
    found = host.ask(f"find {places} -xdev -not -name '*-'; find /run -maxdepth 1; cat /etc/passwd /etc/group")
    return set(found.splitlines())


@on_both
def test_install_run_again_reboot_upgrade_uninstall_purge(new_bare: Callable[[], Host]) -> None:
    host = new_bare()
    before = {line for line in left(host) if "appliance" in line}
    install = functools.partial(host.run, INSTALL, INSTALL_TIMEOUT_S)

    planned = host.run(f"{INSTALL} --dry-run").stdout.splitlines()
    assert all(line.startswith("would ") for line in planned)
    done = install().stdout.splitlines()
    assert len(done) >= len(planned) > 10
    host.run(READY)
    for question, answer in (("is-enabled", "enabled"), ("is-active", "active")):
        assert host.ask(f"systemctl {question} appliance.service appliance.socket").split() == [answer] * 2
    assert host.ask("systemctl is-system-running") == "running"
    assert host.ask("appliance --version") == f"appliance {__version__}"
    assert host.ask("ps -o user= -C appliance").split()[0] == "appliance"
    assert host.get("/etc/appliance/appliance.toml").decode() == FAKE

    began = host.ask("systemctl show -p ActiveEnterTimestampMonotonic appliance.service")
    assert install().stdout == f"nothing to do: release {__version__} is installed\n"
    assert host.ask("systemctl show -p ActiveEnterTimestampMonotonic appliance.service") == began

    host.reboot()
    host.run(READY)
    assert release_that_runs(host).startswith(f"/opt/appliance/releases/{__version__}/")

    host.run("appliance install --system --wheels /srv/newer", INSTALL_TIMEOUT_S)
    host.run(READY)
    assert release_that_runs(host).startswith(f"/opt/appliance/releases/{NEWER}/")
    assert host.ask("ls /opt/appliance/releases").split() == [__version__, NEWER]
    assert host.ask("readlink /opt/appliance/current /opt/appliance/previous").split() == [
        f"releases/{NEWER}",
        f"releases/{__version__}",
    ]
    assert host.ask("appliance --version") == f"appliance {NEWER}"

    back = host.run("/opt/appliance/previous/bin/appliance install --system").stdout.splitlines()
    assert back == [f"point /opt/appliance/current to {__version__}", "restart appliance.service"]
    assert release_that_runs(host).startswith(f"/opt/appliance/releases/{__version__}/")

    host.run("echo mine >/var/lib/appliance/kept")
    removed = host.run("appliance install --system --uninstall", INSTALL_TIMEOUT_S).stdout.splitlines()
    assert removed[-1].startswith("settings, models and account stay")
    assert "/etc/appliance /var/lib/appliance" in removed[-1]
    assert (
        host.run("systemctl is-active appliance.service appliance.socket", check=False).stdout.split()
        == ["inactive"] * 2
    )
    assert host.get("/var/lib/appliance/kept") == b"mine\n"
    assert host.get("/etc/appliance/appliance.toml").decode() == FAKE
    assert host.run("ls /opt/appliance /usr/local/bin/appliance", check=False).stdout == ""
    host.run("id appliance && systemctl list-unit-files 'appliance*' | grep '^0 unit files'")

    host.run(f"{FIRST}/bin/appliance install --system --purge", INSTALL_TIMEOUT_S)
    assert host.run(f"{FIRST}/bin/appliance install --system --purge").stdout == "nothing to do: it is not installed\n"
    assert {line for line in left(host) if "appliance" in line} == before - {
        "/etc/appliance",
        "/etc/appliance/appliance.toml",
    }
    assert host.run("id appliance", check=False).returncode != 0


def test_an_upgrade_that_does_not_start_leaves_the_old_release_in_use_and_purge_leaves_nothing(
    new_appliance: NewHost, wheels: Path, newer_wheels: Path
) -> None:
    host = new_appliance(shared={wheels: WHEELS, newer_wheels: "/srv/newer"})
    host.put(FAKE, "/etc/appliance/appliance.toml")
    assert host.run(INSTALL, INSTALL_TIMEOUT_S).stdout == "start appliance.service\n"
    unit = host.get("/usr/local/lib/systemd/system/appliance.service")
    # Something on this host that the newer release does not get along with.
    drop_in = "/etc/systemd/system/appliance.service.d/test.conf"
    host.put("[Service]\nExecStartPre=/bin/sh -c 'readlink /opt/appliance/current | grep -v /99'\n", drop_in)
    host.run("systemctl daemon-reload")
    failed = host.run("appliance install --system --wheels /srv/newer", INSTALL_TIMEOUT_S, check=False)
    assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
    assert f"{__version__} is in use" in failed.stderr
    assert "see journalctl" in failed.stderr  # the daemon itself did not come to say anything
    host.run(READY)
    assert release_that_runs(host).startswith(f"/opt/appliance/releases/{__version__}/")
    assert host.get("/usr/local/lib/systemd/system/appliance.service") == unit
    assert host.ask("appliance --version") == f"appliance {__version__}"

    host.run(f"rm {drop_in} && systemctl daemon-reload")
    # What only the service's account can't do, and what only shows with a model, is found out while the old one serves.
    began = host.ask("systemctl show -p ActiveEnterTimestampMonotonic appliance.service")
    host.run("chmod 600 /etc/appliance/appliance.toml")
    for command in ("appliance install --system --wheels /srv/newer", "appliance config check"):
        refused = host.run(command, INSTALL_TIMEOUT_S, check=False)
        assert refused.returncode in (1, 78)
        assert "can't be read by appliance, the service's account: chmod 644" in refused.stderr
    host.run("chmod 644 /etc/appliance/appliance.toml")
    assert host.ask("systemctl show -p ActiveEnterTimestampMonotonic appliance.service") == began
    host.run("appliance install --system --wheels /srv/newer", INSTALL_TIMEOUT_S)
    assert release_that_runs(host).startswith(f"/opt/appliance/releases/{NEWER}/")

    host.run("appliance install --system --purge", INSTALL_TIMEOUT_S)
    assert {line for line in left(host) if "appliance" in line} == set()
    assert host.ask("systemctl list-units --all --no-legend '*appliance*'") == ""
    assert host.ask("systemctl is-system-running") == "running"


def test_what_goes_wrong_is_said_in_a_line_and_the_next_run_completes_it(new_bare: Callable[[], Host]) -> None:
    host = new_bare()
    host.run("mkdir /srv/few && cp /srv/wheels/*.whl /srv/few && rm /srv/few/aiohttp-*.whl")
    few = host.run(INSTALL.replace(WHEELS, "/srv/few"), INSTALL_TIMEOUT_S, check=False)
    assert (few.returncode, len(few.stderr.splitlines())) == (1, 1)
    assert "a wheel is missing" in few.stderr
    assert "aiohttp" in few.stderr
    assert host.ask("ls -A /opt/appliance/releases") == ""

    nobody = host.run(["setpriv", "--reuid=65534", "--clear-groups", *INSTALL.split()], check=False)
    assert nobody.stderr == (f"appliance: an installation for the system wants root: sudo {INSTALL} (or --dry-run)\n")

    host.run("mount -t tmpfs -o size=300M tmpfs /opt/appliance")
    full = host.run(INSTALL, INSTALL_TIMEOUT_S, check=False)
    assert full.returncode == 1
    assert "MB free" in full.stderr
    host.run("umount /opt/appliance")

    # Killed while pip installs, then again with a file of somebody else's where the command would go.
    some = "/opt/appliance/releases/.making-*/lib/python3.*/site-packages/*"
    host.run(
        f"{INSTALL} & until ls -d {some}; do sleep 0.1; done; kill -KILL $!; wait $!", INSTALL_TIMEOUT_S, check=False
    )
    assert host.ask("ls -A /opt/appliance/releases").startswith(".making-")
    host.put("#!/bin/sh\n", "/usr/local/bin/appliance", mode=0o755)
    again = host.run(INSTALL, INSTALL_TIMEOUT_S)
    assert "/usr/local/bin/appliance is somebody else's and stays" in again.stdout
    assert host.ask("ls -A /opt/appliance/releases") == __version__
    host.run(READY)


def test_without_a_model_it_is_installed_and_says_what_is_missing(new_appliance: NewHost) -> None:
    host = new_appliance()
    for flag in ("--dry-run --force", "--dry-run", ""):
        said = host.run(f"{INSTALL} {flag}", INSTALL_TIMEOUT_S).stdout
        assert "no model is installed yet" in said
        assert "start appliance.service" not in said
    assert host.run("systemctl is-enabled appliance-bench.timer", check=False).stdout.strip() == "disabled"
    host.run("appliance config check")
    assert host.ask("stat -c %U:%a /var/lib/appliance") == "appliance:750"
    # Started all the same it says the command, and is not tried again.
    host.run("systemctl start appliance.service", check=False)
    assert host.ask("systemctl show --value -p ExecMainStatus appliance.service") == "78"
    assert "appliance models pull" in host.ask("journalctl -u appliance.service -o cat")
    # Where the daemon does come to say why it does not start, the installation says that.
    drop_in = "/etc/systemd/system/appliance.service.d/test.conf"
    host.put(FAKE, SETTINGS)
    host.put("[Service]\nEnvironment=APPLIANCE__SERVER__PORT=none\n", drop_in)
    refused = host.run(f"systemctl daemon-reload && {INSTALL}", INSTALL_TIMEOUT_S, check=False)
    assert refused.returncode == 1
    assert 'does not start: server.port = "none" (environment APPLIANCE__SERVER__PORT)' in refused.stderr


def test_the_running_installation_installs_itself(new_bare: Callable[[], Host]) -> None:
    """Without --wheels pip finds the rest where it is set to find it: here the same directory."""
    host = new_bare()
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
    host.put("[engine]\npipelines = 1\n", "/etc/appliance/appliance.toml")
    with pytest.raises(CommandFailed, match="does not accept the settings"):
        host.run(f"{FIRST}/bin/appliance install --system", INSTALL_TIMEOUT_S, environment=pip)
    host.put(FAKE, "/etc/appliance/appliance.toml")
    host.run(f"{FIRST}/bin/appliance install --system", INSTALL_TIMEOUT_S, environment=pip)
    host.run(READY)
