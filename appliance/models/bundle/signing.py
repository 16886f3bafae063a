"""Ed25519 keys and signatures of an index. Knows key files and the text of bundle.sig; opens no bundle.

cryptography is imported where it is used: 30 ms that other commands need not spend.
"""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.config.settings import PublicKey
from appliance.errors import ConfigError
from appliance.models.bundle.layout import INDEX_NAME, SIGNATURE_NAME
from appliance.models.durable import sync
from appliance.models.errors import BundleRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_ID_DIGITS = 16
MOST_KEY_BYTES = 16 << 10
KEY_MODE = 0o600

_OTHERS = 0o077


class Signature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The text of bundle.sig."""

    algorithm: Literal["ed25519"] = "ed25519"
    public_key: PublicKey
    """Base64 of its 32 bytes: whose signature it is; whether to trust that key is another question."""
    signature: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9+/]{85}[AQgw]==\Z")]
    """Base64 of 64 bytes, over the bytes of bundle.json."""

    @property
    def key_id(self) -> str:
        return key_id(self.public_key)


class Signer:
    """A private key."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """Base64 of 32 bytes, as models.trusted_keys has it."""
        return _text(self._key.public_key().public_bytes_raw())

    def sign(self, index: bytes) -> Signature:
        """The signature of an index: the same for the same bytes."""
        return Signature(public_key=self.public_key, signature=_text(self._key.sign(index)))


def key_id(public_key: str) -> str:
    """A short name of a public key, for people: the beginning of the sha256 of its 32 bytes, in hex."""
    return hashlib.sha256(base64.b64decode(public_key)).hexdigest()[:KEY_ID_DIGITS]


def encode_signature(signature: Signature) -> bytes:
    """The one form of a signature."""
    return msgspec.json.format(msgspec.json.encode(signature), indent=1) + b"\n"


def decode_signature(text: bytes, index: bytes) -> Signature:
    """The signature in `text`, which holds for `index`. Raises BundleRefused."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = msgspec.json.decode(text, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BundleRefused(f"is damaged: {SIGNATURE_NAME} is no signature") from None
    if encode_signature(signature) != text:
        raise BundleRefused(f"is damaged: {SIGNATURE_NAME} is not in the one form that a signature has")
    try:
        public_key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature.public_key))
        public_key.verify(base64.b64decode(signature.signature), index)
    except (InvalidSignature, ValueError):
        raise BundleRefused("was altered: its signature is not one of its index") from None
    return signature


def kept_signature(directory: Path, index: bytes | None = None) -> Signature | None:
    """The signature of the bundle that the model in `directory` came in; None where none was kept, or it does not hold.

    `index`: what it has to be a signature of; else of the index that was kept beside it.
    """
    try:
        kept = (directory / INDEX_NAME).read_bytes()
        text = (directory / SIGNATURE_NAME).read_bytes()
    except OSError:
        return None
    if index not in (None, kept):
        return None
    try:
        return decode_signature(text, kept)
    except BundleRefused:
        return None


def require_trusted(signature: Signature | None, trusted_keys: Sequence[str]) -> None:
    """Raises BundleRefused where there are trusted keys and the signature is by none of them."""
    if not trusted_keys or (signature is not None and signature.public_key in trusted_keys):
        return
    known = ", ".join(map(key_id, trusted_keys))
    if signature is None:
        raise BundleRefused(f"is not signed, and models.trusted_keys asks for a signature by {known}")
    raise BundleRefused(f"is signed by {signature.key_id}, and models.trusted_keys has {known} only")


def read_signer(file: Path) -> Signer:
    """The Ed25519 private key in a PEM file, as `openssl genpkey -algorithm ed25519` writes it (PKCS8).

    Raises ConfigError where it can't be read, others could read it, or it holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read_private(file), password=None)
    except TypeError:
        raise ConfigError(f"the key in {file} has a passphrase; give one without (openssl pkey -in … -out …)") from None
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise ConfigError(f"{file} holds no private key in PEM form; make one with: appliance models keygen") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the key in {file} is not Ed25519; make one with: appliance models keygen")
    return Signer(key)


def make_key(file: Path) -> Signer:
    """A new private key, in a new PEM file (PKCS8) that its owner alone may read. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, KEY_MODE)
        try:
            with os.fdopen(descriptor, "wb") as content:
                content.write(pem)
            sync(file)
            sync(file.absolute().parent)
        except BaseException:
            file.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"the key file {file} can't be made: {error.strerror}") from None
    return Signer(key)


def _read_private(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as content:
            status = os.fstat(content.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"the key file {file} is not a regular file")
            if status.st_mode & _OTHERS:
                raise ConfigError(f"others than its owner may use the key file {file}; run: chmod 600 {file}")
            return content.read(MOST_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"the key file {file} can't be read: {error.strerror}") from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
