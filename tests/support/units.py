"""The shipped units on a test host, and what a program may do in their sandbox. Knows systemd; knows no appliance."""

import json
from collections.abc import Sequence
from pathlib import Path

from appliance.config.shipped import shipped
from tests.support.hosts import Host

UNITS = Path(str(shipped("systemd")))
SYSTEM = "/etc/systemd/system"
SITE = "/run/systemd/system"  # drop-ins of a test: they come after those in /etc with smaller names
PROBE = Path(__file__).with_name("probe.py")
PROBE_PLACE = "/usr/local/lib/probe.py"
ACCOUNT = "appliance"


def install_units(host: Host) -> None:
    """The unit files, the account and its directories, where no installation has put them: all but the program."""
    host.put(PROBE, PROBE_PLACE)
    if host.run("systemctl cat appliance.service", check=False).returncode == 0:
        return
    for file in sorted(UNITS.rglob("*")):
        name = file.relative_to(UNITS)
        if file.is_dir() or name.parts[0] == "optional":
            continue
        place = f"/etc/{name}" if name.parts[0] in ("sysusers.d", "tmpfiles.d") else f"{SYSTEM}/{name}"
        host.put(file, place)
    host.run("systemd-sysusers && systemd-tmpfiles --create appliance.conf && systemctl daemon-reload")


def add_optional(host: Host, name: str) -> None:
    """Put one of the optional drop-ins in place."""
    host.put(UNITS / "optional" / name, f"{SYSTEM}/{name}")
    host.run("systemctl daemon-reload")


def drop_in(host: Host, unit: str, text: str, name: str = "50-test.conf") -> None:
    """Add to a unit, or with the empty text take what was added away."""
    place = f"{SITE}/{unit}.d/{name}"
    if text:
        host.put(text, place)
    else:
        host.run(["rm", "-f", place])
    host.run("systemctl daemon-reload")


def probing(host: Host, attempts: Sequence[str], lifted: str = "") -> None:
    """Have the service try `attempts` in place of the daemon, with directives `lifted` changed; starts nothing."""
    quoted = " ".join(f'"{attempt}"' for attempt in attempts)
    drop_in(
        host,
        "appliance.service",
        "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nStandardOutput=truncate:/run/probe.json\n"
        f"{lifted}\nExecStart=\nExecStart=/usr/bin/python3 -I {PROBE_PLACE} {quoted}\n",
    )


def probed(host: Host) -> dict[str, str]:
    """What came of each attempt: "" where it worked, or what it found; else the error's name."""
    found: dict[str, str] = json.loads(host.ask("cat /run/probe.json"))
    return found


def in_the_service(host: Host, attempts: Sequence[str], lifted: str = "") -> dict[str, str]:
    """What comes of `attempts` in the service's sandbox."""
    probing(host, attempts, lifted)
    host.run("systemctl start appliance.service")
    return probed(host)


def outside(host: Host, attempts: Sequence[str], account: str = ACCOUNT) -> dict[str, str]:
    """What comes of them for the same account without the sandbox."""
    found: dict[str, str] = json.loads(
        host.ask(["runuser", "-u", account, "--", "python3", "-I", PROBE_PLACE, *attempts])
    )
    return found
