"""The files of TLS, right and wrong."""

import contextlib
import os
import re
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.config.certificate import Served, open_certificate
from appliance.config.settings import ServerSettings
from appliance.errors import ConfigError
from tests.support.certificates import DAY, SECRET, Site, break_files
from tests.unit.test_docs import ROOT


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.issue()
    return made


def opened(site: Site, key: str = "server-key.pem") -> Served:
    names = (str(site.directory / "server.pem"), str(site.directory / key))
    served = open_certificate(ServerSettings(tls_certificate_file=names[0], tls_key_file=names[1]))
    assert served is not None
    return served


def openssl(site: Site, arguments: str) -> str:
    """What the program says, run where the files are."""
    command = ["openssl", *arguments.split()]
    return subprocess.run(command, cwd=site.directory, capture_output=True, text=True, check=True).stdout


def test_without_files_there_is_none() -> None:
    assert open_certificate(ServerSettings()) is None


def test_it_tells_what_openssl_tells(site: Site) -> None:
    certificate = opened(site).certificate
    told = openssl(site, "x509 -in server.pem -noout -fingerprint -sha256")
    assert told.strip().rpartition("=")[2].replace(":", "").lower() == certificate.sha256
    assert timedelta() < datetime.now(UTC) + 90 * DAY - certificate.not_after < timedelta(minutes=5)


def test_when_no_client_can_trust_it(site: Site) -> None:
    certificate = opened(site).certificate
    assert certificate.problem() is None
    later = certificate.not_after + timedelta(seconds=1)
    assert (certificate.problem(later) or "").startswith(f"expired on {later:%Y-%m-%d}")
    assert (certificate.problem(certificate.not_before - DAY) or "").startswith("is not valid before ")


def test_a_chain_and_a_file_with_both_are_taken(site: Site) -> None:
    file, key = site.directory / "server.pem", site.directory / "server-key.pem"
    before = opened(site).certificate
    file.write_text(key.read_text() + file.read_text() + site.ca.read_text())
    assert opened(site, "server.pem").certificate == before


def test_a_key_as_openssl_ecparam_writes_it_is_taken(site: Site) -> None:
    openssl(site, "ecparam -name prime256v1 -genkey -out e-key.pem")
    openssl(site, "req -x509 -key e-key.pem -subj /CN=x -days 9 -out server.pem")
    assert opened(site, "e-key.pem").certificate.problem() == "names no host or address (subjectAltName)"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no certificate", "does not exist; put it there, or leave server.tls_certificate_file and"),
        ("DER", "holds no certificate in PEM form; it may be in DER form: openssl x509 -inform der"),
        ("empty", "server.pem is empty"),
        ("swapped", "holds a private key, and is to hold a certificate"),
        ("chain first", "its chain after it"),
        ("no key", "does not exist; put it there"),
        ("no PEM key", "holds no private key in PEM form"),
        ("half a key", "holds no private key in PEM form"),
        ("a directory", "is not a regular file"),
        ("passphrase", "openssl pkey -in"),
        ("another key", "does not belong to the first certificate in"),
    ],
)
def test_files_of_no_use_are_named_with_the_remedy(site: Site, how: str, words: str) -> None:
    file = break_files(site, how)
    with pytest.raises(ConfigError) as caught:
        opened(site)
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_holds_nothing_up(site: Site) -> None:
    (site.directory / "server-key.pem").unlink()
    os.mkfifo(site.directory / "server-key.pem")
    with pytest.raises(ConfigError, match="is not a regular file"):
        opened(site)


def test_a_key_that_openssl_takes_for_too_small_is_told(site: Site) -> None:
    openssl(site, "req -x509 -newkey rsa:1024 -nodes -keyout small.pem -subj /CN=x -days 9 -out server.pem")
    with pytest.raises(ConfigError, match="EE_KEY_TOO_SMALL; have others made, with a key of EC P-256 or RSA 2048"):
        opened(site, "small.pem")


def test_a_renewed_key_that_systemd_hands_over_wants_a_restart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(site.directory))
    break_files(site, "another key")
    with pytest.raises(ConfigError, match="systemctl restart appliance"):
        opened(site)


def test_what_the_docs_say_of_openssl_makes_a_certificate_that_strict_clients_take(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", section("docs/operations.md", "TLS"), re.MULTILINE | re.DOTALL)
    made = [block for block in blocks if "openssl" in block]
    assert len(made) == 2
    subprocess.run(["sh", "-ec", "".join(made)], cwd=tmp_path, check=True, capture_output=True)
    served = open_certificate(
        ServerSettings(tls_certificate_file=str(tmp_path / "certificate.pem"), tls_key_file=str(tmp_path / "key.pem"))
    )
    assert served is not None
    strict = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    strict.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT  # Python's default from 3.13 on
    for name in ("chat.example.lan", "192.168.1.20"):
        shake_hands(served.context, strict, name)


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text("utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """In memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in list(sides):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)
