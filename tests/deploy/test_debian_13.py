"""What only a newer systemd does, on Debian 13: pauses between restarts that grow.

What Debian 12 and 13 must both do is in the other modules, marked with `on_both`.
"""

import time
from collections.abc import Callable

import pytest

from tests.deploy.conftest import NewHost, on_trixie
from tests.support.hosts import Host
from tests.support.hosts.machine import wait_until

WAIT_S = 60.0
PAUSES_S = [2.0, 3.935979, 7.745967]  # RestartSec, and on to 30 s by equal factors in four steps

pytestmark = on_trixie


@pytest.fixture
def host(new_appliance: NewHost) -> Host:
    """A service that runs, with what `appliance install` puts in place for such a systemd."""
    made = new_appliance()
    made.put('[engine]\npipeline = "fake"\n', "/etc/appliance/appliance.toml")
    made.run("systemctl start appliance.service")
    return made


def shown(host: Host, name: str, unit: str = "appliance.service") -> str:
    return host.ask(f"systemctl show --value -p {name} {unit}")


def next_pause_s(host: Host) -> float:
    """How long systemd would wait before it starts the daemon again."""
    return float(shown(host, "RestartUSecNext").removesuffix("s"))


def restarted(host: Host) -> float:
    """Kill the daemon, and wait for the next one; how long that took systemd, in seconds. It is ready then."""
    before = shown(host, "MainPID")
    began = time.monotonic()
    host.run(f"kill -KILL {before}")
    wait(host, lambda: shown(host, "MainPID") not in ("0", before))
    took = time.monotonic() - began
    wait(host, lambda: shown(host, "SubState") == "running")
    return took


def wait(host: Host, holds: Callable[[], bool]) -> None:
    wait_until(holds, WAIT_S, lambda: host.ask("journalctl -u 'appliance*' --no-pager --lines=30"))


def test_pauses_between_restarts_grow(host: Host) -> None:
    for pause_s in PAUSES_S[:-1]:
        assert next_pause_s(host) == pytest.approx(pause_s, rel=1e-3)
        assert restarted(host) >= pause_s
    assert next_pause_s(host) == pytest.approx(PAUSES_S[-1], rel=1e-3)
    assert shown(host, "RestartMaxDelayUSec") == "30s"
