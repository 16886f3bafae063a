"""Certificates made up for tests: a CA of a site, and what it signs, as PEM files."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

SECRET = "secret-7251"  # noqa: S105 # guards nothing
DAY = datetime.timedelta(days=1)
LOCAL = ("localhost", "127.0.0.1", "::1")


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    hidden = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Site:
    """A CA and the certificates that it makes, in `directory`: `ca.pem`, and NAME.pem with NAME-key.pem."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._last = self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA of a test")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._ca = (
            self._builder(self._name, self._key.public_key(), -1, 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self._ca.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str = "server",
        *,
        names: Sequence[str] = LOCAL,
        from_days: float = -1,
        days: float = 90,
        passphrase: bytes | None = None,
        same_key: bool = False,
    ) -> tuple[Path, Path]:
        """Files of a certificate and of its key. `from_days`, `days`: from now; `same_key`: as of the one before."""
        file, key_file = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        key = self._last if same_key else ec.generate_private_key(ec.SECP256R1())
        self._last = key
        certificate = (
            self._builder(x509.Name([]), key.public_key(), from_days, days)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_file.write_bytes(_pem(key, passphrase))
        key_file.chmod(0o600)
        return file, key_file

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, from_days: float, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + from_days * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def break_files(site: Site, how: str) -> Path:
    """Make server.pem, or its key, of no use; returns which."""
    file, key = site.directory / "server.pem", site.directory / "server-key.pem"
    match how:
        case "no certificate":
            file.unlink()
            return file
        case "DER":
            file.write_bytes(ssl.PEM_cert_to_DER_cert(file.read_text()))
            return file
        case "empty":
            file.write_bytes(b"")
            return file
        case "swapped":
            swapped = file.read_bytes(), key.read_bytes()
            key.write_bytes(swapped[0])
            file.write_bytes(swapped[1])
            return file
        case "chain first":
            file.write_text(site.ca.read_text() + file.read_text())
            return file
        case "no key":
            key.unlink()
        case "no PEM key":
            key.write_text(f"{SECRET}\n")
        case "half a key":
            key.write_text(key.read_text()[:100])
        case "a directory":
            key.unlink()
            key.mkdir()
        case "passphrase":
            site.issue(passphrase=SECRET.encode())
        case "another key":
            site.issue("other")
            (site.directory / "other-key.pem").replace(key)
        case _:
            raise ValueError(how)
    return key
