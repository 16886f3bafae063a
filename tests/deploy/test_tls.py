"""TLS on a real host: a key that root alone may read, handed over by systemd; its renewal; what the doctor says."""

from pathlib import Path

import pytest

from tests.deploy.conftest import NewHost
from tests.deploy.test_doctor import doctor
from tests.deploy.test_units import APPLIANCE, SETTINGS, journal, shown
from tests.support.certificates import Site
from tests.support.hosts import Host
from tests.support.units import add_optional

DIRECTORY = "/etc/appliance/tls"
TLS = f"""[engine]
pipeline = "fake"
[server]
tls_certificate_file = "{DIRECTORY}/certificate.pem"
tls_key_file = "{DIRECTORY}/key.pem"
"""
ASK = f"curl -sf --max-time 60 --cacert {DIRECTORY}/ca.pem"
URL = "https://127.0.0.1:8080"

pytestmark = pytest.mark.timeout(300, func_only=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def host(new_appliance: NewHost, site: Site) -> Host:
    """An appliance with a certificate, and settings that name it; not started."""
    made = new_appliance()
    made.run(f"install -d -m 755 {DIRECTORY}")
    put(made, site)
    made.put(site.ca.read_text(), f"{DIRECTORY}/ca.pem")
    made.put(TLS, SETTINGS)
    return made


def put(host: Host, site: Site, *, days: float = 90, same_key: bool = False) -> None:
    """A new certificate of the site, as an operator puts it there."""
    file, key_file = site.issue(names=["127.0.0.1"], days=days, same_key=same_key)
    host.put(file.read_text(), f"{DIRECTORY}/certificate.pem")
    host.put(key_file.read_text(), f"{DIRECTORY}/key.pem")
    host.run(
        f"chmod 644 {DIRECTORY}/certificate.pem && chown root:root {DIRECTORY}/key.pem && chmod 600 {DIRECTORY}/key.pem"
    )


def start(host: Host) -> None:
    add_optional(host, "appliance.service.d/tls.conf")
    host.run("systemctl start appliance.socket appliance.service")


def test_a_key_that_the_account_may_not_read_is_told_with_the_drop_in(host: Host) -> None:
    assert host.run("systemctl start appliance.service", check=False).returncode != 0
    assert (shown(host, "ExecMainStatus"), shown(host, "NRestarts")) == ("78", "0")
    said = journal(host)
    assert f"server.tls_key_file: {DIRECTORY}/key.pem can't be read by appliance: Permission denied" in said
    assert "optional/appliance.service.d/tls.conf" in said
    assert doctor(host)["tls"]["status"] == "red"


def test_a_key_of_root_is_handed_over_and_all_that_asks_goes_on(host: Host) -> None:
    start(host)
    assert host.ask(f"{ASK} {URL}/readyz") == '{"ready":true}'
    assert host.run(f"{ASK} {URL.replace('https', 'http')}/readyz", check=False).returncode == 52  # no answer
    copy = shown(host, "Environment").partition("APPLIANCE__SERVER__TLS_KEY_FILE=")[2].split()[0]
    assert copy == "/run/credentials/appliance.service/tls-key.pem"
    for account in ("appliance", "nobody"):
        for key in (copy, f"{DIRECTORY}/key.pem"):
            reading = host.run(["runuser", "-u", account, "--", "cat", key], check=False)
            assert (reading.returncode == 0) is (account == "appliance" and key == copy), (account, key)
    # Commands go by the settings, and know the appliance by its own certificate.
    assert host.run(f"{APPLIANCE} config check --config {SETTINGS}").returncode == 0
    assert host.ask("appliance chat --max-tokens 3 hello")
    host.run("systemctl start appliance-bench.service", timeout_s=110)
    found = doctor(host)
    assert (found["daemon"]["status"], found["tls"]["status"]) == ("green", "green"), found
    assert "days left" in found["tls"]["finding"]
    host.run("systemctl restart appliance.service")  # who asks meanwhile waits, and has its handshake then
    assert host.ask(f"{ASK} {URL}/healthz")
    assert found["tls"]["facts"]["key_file"] == copy


def test_a_renewal_with_the_same_key_wants_a_reload_and_with_another_a_restart(host: Host, site: Site) -> None:
    start(host)
    put(host, site, days=20, same_key=True)
    assert doctor(host)["tls"]["remedy"].startswith("systemctl reload appliance (with another key: ")
    assert "new connections get the renewed certificate" in host.ask("appliance reload")
    found = doctor(host)["tls"]
    assert (found["status"], "expires soon: 20 days left" in found["finding"]) == ("yellow", True), found
    put(host, site, days=200)
    assert host.run("systemctl reload appliance.service", check=False).returncode != 0
    told = journal(host)
    assert "put the right one where LoadCredential= has it from, then: systemctl restart appliance" in told
    assert host.ask(f"{ASK} {URL}/healthz")  # by the old one
    found = doctor(host)["tls"]
    assert found["status"] == "yellow", found
    assert "with another key: systemctl restart appliance" in found["remedy"]
    host.run("systemctl restart appliance.service")
    assert "200 days left" in doctor(host)["tls"]["finding"]


def test_a_key_that_is_not_there_to_be_handed_over_is_found(host: Host) -> None:
    """The daemon never runs then, to say so: systemd has no more than "Failed to set up credentials"."""
    host.run(f"rm {DIRECTORY}/key.pem")
    add_optional(host, "appliance.service.d/tls.conf")
    assert host.run("systemctl start appliance.service", check=False).returncode != 0
    found = doctor(host)
    assert (found["tls"]["status"], found["daemon"]["status"]) == ("red", "red")
    assert f"{DIRECTORY}/key.pem does not exist; put it there" in found["tls"]["finding"]
    assert "exit status 243" in found["daemon"]["finding"]
