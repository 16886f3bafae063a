"""`appliance doctor`, `support-bundle` and the self-benchmark's unit on a real host: systemd, a journal, accounts."""

import io
import json
import tarfile
from typing import Any

import pytest

from tests.deploy.conftest import NewHost, on_both
from tests.support.hosts import Host

FAKE = '[engine]\npipeline = "fake"\n'
READY = "curl -sf --retry 30 --retry-connrefused --retry-all-errors --retry-delay 1 http://127.0.0.1:8080/readyz"
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ "
PLANTED = "pl4nted-s3cret"

pytestmark = pytest.mark.timeout(600, func_only=True)


def doctor(host: Host, before: str = "") -> dict[str, dict[str, Any]]:
    """Findings by check; whatever the exit status, which has to be that of the worst."""
    done = host.run(f"{before}appliance doctor --json", check=False)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert done.returncode == {"green": 0, "red": 2}.get(report["status"], 1)
    found = {finding["check"]: finding for finding in report["findings"]}
    assert not [finding for finding in found.values() if "the check failed" in finding["finding"]]
    return found


def status(found: dict[str, dict[str, Any]], *checks: str) -> list[str]:
    return [found[check]["status"] for check in checks]


def bundle(host: Host) -> dict[str, str]:
    """Texts of a new support bundle, by name."""
    host.run("rm -f /root/out.tar.gz && appliance support-bundle /root/out.tar.gz")
    assert host.ask("stat -c %a /root/out.tar.gz") == "600"
    with tarfile.open(fileobj=io.BytesIO(host.get("/root/out.tar.gz"))) as tar:
        found = {}
        for member in tar.getmembers():
            content = tar.extractfile(member)
            assert content is not None
            found[member.name.partition("/")[2]] = content.read().decode()
        return found


@on_both
def test_a_host_is_looked_at_through_its_life(new_appliance: NewHost) -> None:
    host = new_appliance()
    host.put(FAKE, "/etc/appliance/appliance.toml")
    drop_in = f"[Service]\nEnvironment=UPSTREAM_TOKEN={PLANTED}\n"
    host.put(drop_in, "/etc/systemd/system/appliance.service.d/planted.conf")
    host.run("systemctl daemon-reload && systemctl start appliance.socket appliance.service")
    host.run(READY)

    found = doctor(host)
    assert status(found, "settings", "daemon", "port", "model", "disk") == ["green"] * 5, found
    assert found["journal"]["status"] == "green", found
    assert found["settings"]["facts"]["file"] == "/etc/appliance/appliance.toml"
    assert found["daemon"]["facts"]["unit"]["ActiveState"] == "active"
    assert found["disk"]["facts"]["state_directory"] == "/var/lib/appliance"
    assert found["speed"]["status"] == "unknown"

    # An account that may read nothing hears so, of a daemon that it can ask all the same.
    found = doctor(host, NOBODY)
    assert status(found, "daemon", "port") == ["green", "green"]
    assert status(found, "speed", "journal", "tuning") == ["unknown"] * 3, found
    assert "run it as root" in found["journal"]["remedy"]

    # The unit measures as the service's account, and the doctor knows of it.
    host.run("systemctl start appliance-bench.service")
    assert (
        host.ask("stat -c %U /var/lib/appliance/benchmarks /var/lib/appliance/benchmarks/*").split()
        == ["appliance"] * 2
    )
    found = doctor(host)
    assert "no baseline yet" in found["speed"]["finding"]
    assert found["speed"]["facts"]["records"] == 1

    # What is planted in a drop-in gets nowhere.
    texts = bundle(host)
    assert [name for name, content in texts.items() if PLANTED in content] == []
    assert "Environment=UPSTREAM_TOKEN=[redacted]" in texts["units/cat.txt"]
    assert "ActiveState=active" in texts["units/show.txt"]
    assert "appliance" in texts["journal.txt"]
    assert [json.loads(line)["MESSAGE"] for line in texts["journal.jsonl"].splitlines()]
    assert json.loads(texts["status.json"])["model"]["id"] == "fake"

    # A service that a connection would start is not started by looking.
    host.run("systemctl stop appliance.service")
    assert host.ask("systemctl is-active appliance.socket") == "active"
    found = doctor(host)
    assert status(found, "daemon", "port") == ["yellow", "green"], found
    assert host.run("systemctl is-active appliance.service", check=False).stdout.strip() == "inactive"
    host.run("systemctl stop appliance.socket")

    # Settings that are wrong are found, and so is that the service has failed of them.
    host.put('[server]\nport = "none"\n', "/etc/appliance/appliance.toml")
    host.run("systemctl start appliance.service", check=False)
    found = doctor(host)
    assert status(found, "settings", "daemon") == ["red", "red"], found
    assert "server.port" in found["settings"]["finding"]
    assert "exit status 78" in found["daemon"]["finding"]
    assert "appliance config check" in found["daemon"]["remedy"]
    assert "server.port" in bundle(host)["doctor.json"]
