"""The certificate and the key that TLS is served with: read, judged, made ready. Knows files; opens no socket.

cryptography and ssl are imported where they are used: most commands need neither.
"""

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from appliance.config.loading import account, and_above
from appliance.config.settings import ServerSettings
from appliance.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

CERTIFICATE, KEY = "server.tls_certificate_file", "server.tls_key_file"
FILE_MAX_BYTES = 1 << 20
CREDENTIALS = "/run/credentials/"  # where systemd puts what LoadCredential= hands over, by unit
HANDED = "systemd copied that key when the service started: put the right one where LoadCredential= has it from"
DROP_IN = "optional/appliance.service.d/tls.conf"


class Certificate(Struct, frozen=True, kw_only=True):
    """What one says of itself."""

    sha256: str
    """Of its DER form, in hexadecimal digits: the fingerprint that openssl and browsers show."""
    not_before: datetime
    not_after: datetime
    """Both in UTC."""
    names: tuple[str, ...]
    """What clients may ask it by: host names and addresses; none where clients take it by no name at all."""

    def problem(self, now: datetime | None = None) -> str | None:
        """Why no client can trust it `now`, whoever vouches for it; None where there is no such reason."""
        now = now or datetime.now(UTC)
        if now > self.not_after:
            return f"expired on {shown(self.not_after)}"
        if now < self.not_before:
            return f"is not valid before {shown(self.not_before)}"
        return None if self.names else "names no host or address (subjectAltName)"


class Served(Struct, frozen=True, kw_only=True):
    """A certificate with its key, for connections."""

    file: Path
    certificate: Certificate
    context: "ssl.SSLContext"


def shown(moment: datetime) -> str:
    """As people and openssl write it: 2027-01-31 12:00 UTC."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def open_certificate(server: ServerSettings) -> Served | None:
    """What the settings name, seen to belong together; None where they name nothing. Blocks.

    Raises ConfigError, which names the file and the remedy, and has nothing of the key. Whether the certificate has
    expired is for clients to judge: see Certificate.problem.
    """
    if not server.tls_certificate_file:
        return None
    file, key_file = Path(server.tls_certificate_file).expanduser(), Path(server.tls_key_file).expanduser()
    leaf = _leaf(file)
    _require_key(leaf, file, key_file)
    return Served(file=file, certificate=_certificate(leaf), context=_context(file, key_file))


def read_certificate(file: Path) -> Certificate:
    """The one that comes first in `file`. Raises ConfigError, from PermissionError where it may not be read."""
    return _certificate(_leaf(file))


def require_pair(file: Path, key_file: Path) -> None:
    """Raises ConfigError where the key is none of the certificate, or can't be read: then from the OSError."""
    _require_key(_leaf(file), file, key_file)


def _require_key(leaf: "x509.Certificate", file: Path, key_file: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(KEY, key_file, _key_remedy)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(
            f"{KEY}: the key in {key_file} has a passphrase, which nobody can type at a start; "
            f"write one without: openssl pkey -in {key_file} -out …"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        again = f"; {HANDED}" if _handed(key_file) else ""
        raise ConfigError(f"{KEY}: {key_file} {_content(pem, 'private key')}{again}") from None
    if key.public_key() != leaf.public_key():
        again = f"; {HANDED}, then: systemctl restart appliance" if _handed(key_file) else ""
        raise ConfigError(
            f"{KEY}: the key in {key_file} does not belong to the first certificate in {file} ({CERTIFICATE}): "
            f"the appliance's own has to come first there, its chain after it{again}"
        )


def _handed(file: Path) -> bool:
    """Whether systemd has copied it when the service started."""
    places = [CREDENTIALS, os.environ.get("CREDENTIALS_DIRECTORY", "")]
    return any(place and file.absolute().is_relative_to(place) for place in places)


def _certificate(leaf: "x509.Certificate") -> Certificate:
    from cryptography.hazmat.primitives.hashes import SHA256

    return Certificate(
        names=_names(leaf),
        sha256=leaf.fingerprint(SHA256()).hex(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def _names(leaf: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):  # or one that can't be read
        return ()
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _leaf(file: Path) -> "x509.Certificate":
    from cryptography import x509

    pem = _read(CERTIFICATE, file, _certificate_remedy)
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise ConfigError(f"{CERTIFICATE}: {file} {_content(pem, 'certificate')}") from None


def _content(data: bytes, wanted: str) -> str:
    """What a file has in place of what is wanted; with nothing of it."""
    if not data.strip():
        return "is empty"
    for name, what in ((b"PRIVATE KEY-----", "private key"), (b"BEGIN CERTIFICATE-----", "certificate")):
        if name in data and what != wanted:
            return f"holds a {what}, and is to hold a {wanted}"
    # DER begins with the tag of a sequence, which no text does so.
    der = "; it may be in DER form: openssl x509 -inform der makes a PEM file of that" if data[:1] == b"0" else ""
    return f"holds no {wanted} in PEM form{der}"


def _context(file: Path, key_file: Path) -> "ssl.SSLContext":
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(file, key_file, password="")  # or OpenSSL asks for one on the terminal
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "changed meanwhile"
        raise ConfigError(
            f"{CERTIFICATE}, {KEY}: OpenSSL does not take {file} with {key_file}: {reason}; have others made, "
            "with a key of EC P-256 or RSA 2048 at least"
        ) from None
    return context


def _read(setting: str, file: Path, remedy: Callable[[Path, OSError], str]) -> bytes:
    """The first FILE_MAX_BYTES of it. Raises ConfigError from the OSError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{setting}: {file} is not a regular file")
            return os.read(descriptor, FILE_MAX_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"can't be read by {account()}: {error.strerror}"
        raise ConfigError(f"{setting}: {file} {reason}; {remedy(file, error)}") from error


def _certificate_remedy(file: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"as root: chmod 644 {file}{and_above(file)}"
    return f"put it there, or leave {CERTIFICATE} and {KEY} out for plain http://"


def _key_remedy(file: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"have systemd hand it over ({DROP_IN}), or make it that account's own, with mode 600"
    if _handed(file):
        return f"systemd puts it there as the service starts, where {DROP_IN} says what"
    return f"put it there, or leave {CERTIFICATE} and {KEY} out for plain http://"
