"""What the doctor says of certificates: real files below the roots of made-up hosts."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.config.certificate import read_certificate
from appliance.doctor.checks.tls import check_tls
from appliance.doctor.findings import Finding
from appliance.doctor.surroundings import Surroundings
from tests.support.certificates import Site, break_files
from tests.support.doctor import Programs, said, status, surroundings

HANDED = "/run/credentials/appliance.service/tls-key.pem"
SETTINGS = {
    "tls_certificate_file": "/etc/appliance/tls/server.pem",
    "tls_key_file": "/etc/appliance/tls/server-key.pem",
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    directory = tmp_path / "etc/appliance/tls"
    directory.mkdir(parents=True)
    made = Site(directory)
    made.issue()
    return made


def host(root: Path, *, key: str | None = None, **changes: Any) -> Surroundings:
    server = SETTINGS | ({} if key is None else {"tls_key_file": key})
    return surroundings(root, settings={"server": server}, **changes)


def showing(site: Site) -> dict[str, Any]:
    """A daemon that shows what the file has."""
    certificate = read_certificate(site.directory / "server.pem")
    return status(tls={"certificate_sha256": certificate.sha256, "not_after": certificate.not_after.isoformat()})


def test_without_tls_there_is_nothing_to_check(tmp_path: Path) -> None:
    finding = check_tls(surroundings(tmp_path, status=status()))
    assert said(finding, "green", "not in use")
    assert finding.facts == {"in_use": False}


def test_days_left(tmp_path: Path, site: Site) -> None:
    here = host(tmp_path, status=showing(site))
    finding = check_tls(here)
    assert said(finding, "green", "90 days left, until ")
    assert finding.facts["left_days"] == pytest.approx(90, abs=0.1)
    assert said(check_tls(host(tmp_path)), "green", "days left")  # nobody shows it yet

    def in_days(days: float) -> Any:
        return check_tls(here, now=lambda: datetime.now(UTC) + timedelta(days=days))

    assert said(in_days(59.9), "green", "30 days left")
    soon = in_days(60.1)
    assert said(soon, "yellow", "expires soon: 30 days left")
    assert soon.remedy.endswith("put it in place of the old one, then: systemctl reload appliance")
    assert said(in_days(90.1), "red", "expired on ")
    assert said(in_days(-2), "red", "is not valid before ")
    assert "clock" in in_days(-2).remedy


@pytest.mark.parametrize("how", ["no certificate", "DER", "chain first", "no key", "passphrase", "another key"])
def test_files_of_no_use_are_red(tmp_path: Path, site: Site, how: str) -> None:
    shown = showing(site)
    file = break_files(site, how)
    for here in (host(tmp_path), host(tmp_path, status=shown)):  # who shows the old ones still can't start again
        finding = check_tls(here)
        assert said(finding, "red", str(file))
        assert "appliance config check" in finding.remedy


def test_another_certificate_than_new_connections_get(tmp_path: Path, site: Site) -> None:
    before = showing(site)
    site.issue()
    finding = check_tls(host(tmp_path, status=before))
    assert said(finding, "yellow", "it was not read since it changed")
    assert finding.remedy == "systemctl reload appliance"
    assert said(check_tls(host(tmp_path, status=status(tls=None))), "yellow", "the daemon speaks http://")
    assert said(check_tls(surroundings(tmp_path, status=before)), "yellow", "the daemon speaks https://")


def test_a_certificate_without_names_is_red_and_a_key_for_everybody_yellow(tmp_path: Path, site: Site) -> None:
    assert check_tls(host(tmp_path)).facts["names"] == ["localhost", "127.0.0.1", "::1"]
    assert said(check_tls(host(tmp_path)), "green", ", for localhost, 127.0.0.1, ::1")
    key = site.directory / "server-key.pem"
    key.chmod(0o644)
    finding = check_tls(host(tmp_path))
    assert said(finding, "yellow", "every account of this host may read the key in ")
    assert finding.remedy == f"chmod 600 {key}"
    site.issue(names=[])
    assert said(check_tls(host(tmp_path)), "red", "names no host or address (subjectAltName): clients refuse it")


def test_a_key_that_systemd_hands_over_is_looked_for_where_it_comes_from(tmp_path: Path, site: Site) -> None:
    unit = "[Service]\nLoadCredential=other:/etc/x\nLoadCredential=tls-key.pem:/etc/appliance/tls/server-key.pem\n"

    def found(unit: str = unit, **changes: Any) -> Finding:
        return check_tls(host(tmp_path, key=HANDED, ask=Programs(systemctl=unit), **changes))

    assert said(found(), "green", "days left")
    before = showing(site)
    site.issue(days=40)
    assert said(found(status=before), "yellow", "another certificate than new connections get")
    assert found(status=before).remedy == "systemctl reload appliance (with another key: systemctl restart appliance)"
    break_files(site, "another key")
    assert said(found(), "red", "does not belong to the first certificate")
    break_files(site, "no key")
    assert said(found(), "red", "tls/server-key.pem does not exist; put it there")
    assert said(found("[Service]\n"), "red", f"{HANDED} does not exist")


def test_what_an_account_may_not_read_is_unknown(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = showing(site)

    def refused(path: Any, *_: Any, **__: Any) -> int:
        if str(path).endswith("key.pem"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *_, **__)

    opened = os.open
    monkeypatch.setattr("appliance.config.certificate.os.open", refused)
    assert said(check_tls(host(tmp_path)), "unknown", "server-key.pem can't be read by ")
    assert said(check_tls(host(tmp_path, status=shown)), "green", "days left")  # the daemon has it, and the right one
