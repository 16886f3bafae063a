"""What an operator does after an installation, by the docs: open it to the LAN, and mend a start that fails."""

import json
import re
from pathlib import Path

import pytest

from tests.deploy.conftest import NewHost
from tests.deploy.test_doctor import FAKE, READY, doctor
from tests.support.hosts import Host
from tests.support.units import drop_in

ROOT = Path(__file__).parents[2]
OPTIONAL = "/opt/appliance/current/lib/python3*/site-packages/appliance/data/systemd/optional"

pytestmark = pytest.mark.timeout(600, func_only=True)


def listening(host: Host) -> str:
    return host.ask("ss -Hltn 'sport = :8080'")


def opening() -> str:
    """The line of the docs that has a changed socket unit in force."""
    text = (ROOT / "docs/systemd.md").read_text("utf-8")
    lines: set[str] = set(re.findall(r"systemctl daemon-reload; systemctl stop .*systemctl start [a-z. ]+", text))
    assert len(lines) == 1
    return lines.pop().strip()


def test_the_lan_is_let_in_as_the_docs_say_and_the_doctor_tells_who_is(new_appliance: NewHost) -> None:
    host = new_appliance()
    host.put(FAKE + '[server]\nhost = "0.0.0.0"\n', "/etc/appliance/appliance.toml")
    host.run(f"systemctl start appliance.socket appliance.service && {READY}")
    assert "127.0.0.1:8080" in listening(host)
    assert "settings without effect" in host.ask("journalctl -u appliance -o cat")
    port = doctor(host)["port"]
    assert port["status"] == "yellow"
    assert "lan.conf" in json.dumps(port)

    host.put(FAKE, "/etc/appliance/appliance.toml")
    host.run(f"cp -r {OPTIONAL}/appliance.socket.d /etc/systemd/system/")
    host.run(f"{opening()} && {READY}")
    assert "*:8080" in listening(host)
    port = doctor(host)["port"]
    assert "other hosts too: 10.0.0.0/8, " in port["finding"], port

    lan = "/etc/systemd/system/system-appliance.slice.d/50-lan.conf"
    host.put("[Slice]\n", lan)
    host.run("systemctl daemon-reload")
    port = doctor(host)["port"]
    assert "the packets of none are let in" in port["finding"], port
    host.put("[Slice]\nIPAddressAllow=10.77.0.0/16\n", lan)
    host.put("APPLIANCE__SERVER__PORT=9999\n", "/etc/default/appliance")
    drop_in(host, "appliance.service", "[Service]\nEnvironmentFile=-/etc/default/appliance\n")
    port = doctor(host)["port"]
    assert port["facts"]["lets_in"] == ["10.77.0.0/16"], port
    assert "server.port = 9999 does not count" in port["finding"], port


def test_a_start_that_fails_says_why_at_error_and_is_not_tried_again(new_appliance: NewHost) -> None:
    host = new_appliance()
    host.put(FAKE, "/etc/appliance/appliance.toml")
    host.run("chmod 600 /etc/appliance/appliance.toml; systemctl start appliance.service", check=False)
    assert host.ask("systemctl show -P ExecMainStatus appliance") == "78"
    assert host.ask("systemctl show -P NRestarts appliance") == "0"
    told = host.ask("journalctl -u appliance -p err -x -o short")
    assert "appliance.toml can't be read by appliance" in told
    assert "chmod 644 /etc/appliance/appliance.toml" in told
    assert "appliance config check" in told  # the catalog's words
    settings = doctor(host)["settings"]
    assert settings["status"] == "red", settings
    host.run(f"chmod 644 /etc/appliance/appliance.toml; systemctl start appliance.service && {READY}")
    assert doctor(host)["settings"]["status"] == "green"
