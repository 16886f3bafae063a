"""Files with a manifest as one .tar.gz: the same content in the same order makes the same bytes. Gathers nothing."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

SCHEMA = "appliance-support-bundle"
SCHEMA_VERSION = 1
MANIFEST_NAME = "MANIFEST.json"
MODE = 0o600  # for whoever made it: journals have addresses of clients


class Part(Struct, frozen=True, kw_only=True):
    """One file of the archive."""

    name: str
    """Its path there."""
    what: str
    """For people."""
    content: bytes
    cut: bool = False
    """Whether there was more."""
    redactions: int = 0
    """Secrets that were taken out."""


class LeftOut(Struct, frozen=True, kw_only=True):
    """What should be in it, and is not."""

    name: str
    what: str
    reason: str


class Entry(Struct, frozen=True, kw_only=True):
    """A Part, as the manifest has it."""

    name: str
    what: str
    size_bytes: int
    sha256: str
    cut: bool
    redactions: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What is in the archive, and what is not."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    at: str
    """UTC, ISO 8601."""
    host: str
    version: str
    """Of the appliance that made it."""
    files: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


def pack(parts: Sequence[Part], left_out: Sequence[LeftOut], *, at: str, host: str, version: str) -> bytes:
    """The archive: the manifest, then the parts by name, all below one directory."""
    ordered = sorted(parts, key=lambda part: part.name)
    manifest = Manifest(
        at=at,
        host=host,
        version=version,
        files=tuple(_entry(part) for part in ordered),
        left_out=tuple(sorted(left_out, key=lambda item: item.name)),
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    seconds = int(datetime.fromisoformat(at).timestamp())
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=seconds) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, content in [(MANIFEST_NAME, text), *((part.name, part.content) for part in ordered)]:
            info = tarfile.TarInfo(f"{directory_name(at, host)}/{name}")
            info.size, info.mtime, info.mode = len(content), seconds, MODE
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def directory_name(at: str, host: str) -> str:
    """What everything lies below, and what the file is called without another name."""
    safe = "".join(character if character.isalnum() or character in "-." else "-" for character in host)
    return f"appliance-support-{safe}-{at[:19].replace(':', '').replace('-', '')}Z"


def write(out: Path, content: bytes) -> None:
    """`content` as a new file for its owner alone; nothing is left where that fails.

    Raises OSError, FileExistsError where there is such a file.
    """
    if out.exists():
        raise FileExistsError(17, "a file of that name is there", str(out))
    new = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), MODE)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(out)
    finally:
        new.unlink(missing_ok=True)


def _entry(part: Part) -> Entry:
    return Entry(
        name=part.name,
        what=part.what,
        size_bytes=len(part.content),
        sha256=hashlib.sha256(part.content).hexdigest(),
        cut=part.cut,
        redactions=part.redactions,
    )
