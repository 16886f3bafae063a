"""Bundles that somebody else made: what can be believed of them, and their files. Knows no store.

Nothing is taken for what it says it is: see layout. What is held in memory is bounded there; a model's files pass
through in pieces.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from appliance.errors import ApplianceError
from appliance.models.bundle import layout
from appliance.models.bundle.layout import Index, Member
from appliance.models.bundle.signing import Signature, decode_signature, require_trusted
from appliance.models.errors import BundleRefused, ManifestTooNew
from appliance.models.manifest import MODEL_FILES, FileRecord, Manifest, decode_manifest, installed_versions
from appliance.models.progress import Progress
from appliance.models.verification import compare_releases

CHUNK_BYTES = 1 << 20
MOST_TEXT = 1000  # characters of one text in a manifest
MOST_TOKENS = 1 << 24
MOST_PARAMETERS = 10**12


class Contents(Struct, frozen=True, kw_only=True):
    """What a bundle says of itself, all of it checked."""

    index: Index
    signature: Signature | None
    manifest: Manifest
    licence_text: bytes
    warnings: tuple[str, ...]
    files_at: int
    """Where the header of the model's first file begins."""


class Bundle:
    """An open bundle. Its model's files have not been read yet."""

    def __init__(self, file: Path, content: IO[bytes], contents: Contents) -> None:
        self.file = file
        self.contents = contents
        self._content = content

    def check_files(self, progress: Progress) -> None:
        """Read every byte. Raises BundleRefused where one is not what the index says."""
        with _named(self.file):
            for _ in self._read_files("checking", progress):
                pass

    def extract_files(self, directory: Path, progress: Progress) -> None:
        """Write the model's files into `directory`, which is empty, and check them again on the way.

        Raises BundleRefused, OSError where they can't be written.
        """
        with _named(self.file):
            target: IO[bytes] | None = None
            try:
                for member, piece in self._read_files("copying", progress):
                    if target is None:
                        target = (directory / member.name).open("xb")
                    target.write(piece)
                    if not piece:
                        target.close()
                        target = None
            finally:
                if target is not None:
                    target.close()

    def _read_files(self, label: str, progress: Progress) -> Iterator[tuple[Member, bytes]]:
        """Each file's pieces, and an empty one when it has ended and its digest is right."""
        index = self.contents.index
        total = sum(member.size_bytes for member in index.files)
        done = 0
        progress.stage(f"{index.id}: {label}", total)
        self._content.seek(self.contents.files_at)
        for member in index.files:
            _expect_header(self._content, member)
            digest = hashlib.sha256()
            left = member.size_bytes
            while left:
                piece = _read(self._content, min(left, CHUNK_BYTES))
                digest.update(piece)
                left -= len(piece)
                done += len(piece)
                progress.advance(done, total)
                yield member, piece
            _end_member(self._content, member, digest.hexdigest())
            yield member, b""
        if _read(self._content, len(layout.END)) != layout.END:
            raise BundleRefused("is damaged: it does not end where its index says")


@contextmanager
def open_bundle(file: Path, trusted_keys: Sequence[str] = ()) -> Iterator[Bundle]:
    """Open a bundle and check all of it but the model's files.

    `trusted_keys`: base64 of public keys; where there are some, it must be signed by one of them.
    Raises BundleRefused in one line, ManifestTooNew.
    """
    with _named(file):
        content = _open(file)
    with content:
        with _named(file):
            contents = _read_contents(content, trusted_keys)
        yield Bundle(file, content, contents)


def check_manifest(manifest: Manifest) -> None:
    """What will be shown to people fits on a line and can do nothing to a terminal; the rest can be served.

    Raises BundleRefused.
    """
    for name, text in _texts(msgspec.to_builtins(manifest)):
        if not text.isprintable() or len(text) > MOST_TEXT:
            raise BundleRefused(f"{name} in the manifest is no line of text")
    missing = [name for name in MODEL_FILES if name not in manifest.files]
    if missing:
        raise BundleRefused(f"the model has no {', '.join(missing)}")
    tokens = (manifest.context_tokens, *(number + 1 for number in manifest.eos_token_ids))
    if not manifest.eos_token_ids or not all(1 <= number <= MOST_TOKENS for number in tokens):
        raise BundleRefused("the manifest has impossible numbers of tokens")
    if not 0 <= manifest.parameters <= MOST_PARAMETERS:
        raise BundleRefused("the manifest has an impossible number of parameters")


def _read_contents(content: IO[bytes], trusted_keys: Sequence[str]) -> Contents:
    size_bytes = os.fstat(content.fileno()).st_size
    index, index_text = _read_index(content)
    signature, signature_bytes = _read_signature(content, index_text)
    require_trusted(signature, trusted_keys)
    _check_size(index, len(index_text), signature_bytes, size_bytes)
    licence_text = _read_text(content, index.licence)
    manifest = _read_manifest(content, index)
    newer, older = compare_releases(manifest, installed_versions(), "make the bundle again with the OpenVINO here")
    if newer:
        raise BundleRefused(f"can't be used here: {newer[0]}")
    return Contents(
        index=index,
        signature=signature,
        manifest=manifest,
        licence_text=licence_text,
        warnings=tuple(older),
        files_at=content.tell(),
    )


def _open(file: Path) -> IO[bytes]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleRefused(f"can't be read: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise BundleRefused("is no bundle: not a regular file")


def _read_index(content: IO[bytes]) -> tuple[Index, bytes]:
    block = _read(content, layout.BLOCK_BYTES, "is no bundle: it is too short for one")
    size_bytes = layout.size_in(block, layout.INDEX_NAME, layout.MOST_INDEX_BYTES)
    if size_bytes is None:
        raise BundleRefused(f"is no bundle: it begins with {layout.describe(block)}, not with {layout.INDEX_NAME}")
    text = _read(content, size_bytes)
    _expect_zeros(content, size_bytes)
    return layout.decode_index(text), text


def _read_signature(content: IO[bytes], index_text: bytes) -> tuple[Signature | None, int | None]:
    """The signature and its size; None where there is none, and the next header has not been read then."""
    at = content.tell()
    block = _read(content, layout.BLOCK_BYTES)
    size_bytes = layout.size_in(block, layout.SIGNATURE_NAME, layout.MOST_SIGNATURE_BYTES)
    if size_bytes is None:
        content.seek(at)
        return None, None
    text = _read(content, size_bytes)
    _expect_zeros(content, size_bytes)
    return decode_signature(text, index_text), size_bytes


def _check_size(index: Index, index_bytes: int, signature_bytes: int | None, found_bytes: int) -> None:
    own = [index_bytes] if signature_bytes is None else [index_bytes, signature_bytes]
    expected = layout.bundle_bytes([*own, *(member.size_bytes for member in index.members)])
    if found_bytes < expected:
        raise BundleRefused(f"is cut short: {found_bytes:,} of {expected:,} bytes; copy it again")
    if found_bytes > expected:
        raise BundleRefused(f"is damaged: {found_bytes - expected:,} bytes behind its end")


def _read_manifest(content: IO[bytes], index: Index) -> Manifest:
    text = _read_text(content, index.manifest)
    try:
        manifest = decode_manifest(text, f"its {index.manifest.name}")
    except ManifestTooNew as error:
        raise ManifestTooNew(f"has a manifest of a newer appliance: {error}") from None
    except ValueError as error:
        raise BundleRefused(f"is damaged: {index.manifest.name}: {error}") from None
    files = {member.name: FileRecord(member.sha256, member.size_bytes) for member in index.files}
    if (manifest.id, manifest.digest, manifest.files) != (index.id, index.digest, files):
        raise BundleRefused(f"is damaged: {layout.INDEX_NAME} and {index.manifest.name} are of different models")
    try:
        check_manifest(manifest)
    except BundleRefused as error:
        raise BundleRefused(f"is damaged: {error}") from None
    return manifest


def _texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _texts(below, key)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _texts(below, name)


def _read_text(content: IO[bytes], member: Member) -> bytes:
    _expect_header(content, member)
    text = _read(content, member.size_bytes)
    _end_member(content, member, hashlib.sha256(text).hexdigest())
    return text


def _expect_header(content: IO[bytes], member: Member) -> None:
    block = _read(content, layout.BLOCK_BYTES)
    expected = layout.header(member.name, member.size_bytes)
    if block == expected:
        return
    if layout.describe(block) == layout.describe(expected):
        raise BundleRefused(f"is damaged: the header of {member.name} has another size, mode, owner or time")
    raise BundleRefused(f"is damaged: {layout.describe(block)} is in the place of {member.name}")


def _end_member(content: IO[bytes], member: Member, sha256: str) -> None:
    _expect_zeros(content, member.size_bytes)
    if sha256 != member.sha256:
        raise BundleRefused(f"is damaged: {member.name}: sha256 {sha256[:16]}…, expected {member.sha256[:16]}…")


def _expect_zeros(content: IO[bytes], size_bytes: int) -> None:
    if any(_read(content, layout.padding_bytes(size_bytes))):
        raise BundleRefused("is damaged: there is something between two of its files")


def _read(content: IO[bytes], count: int, short: str = "is cut short; copy it again") -> bytes:
    """Exactly `count` bytes. Raises BundleRefused with `short` at the end of the file, or where it can't be read."""
    pieces = []
    while count:
        try:
            piece = content.read(count)
        except OSError as error:
            raise BundleRefused(f"can't be read: {error.strerror}") from None
        if not piece:
            raise BundleRefused(short)
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Errors about the bundle begin with its name."""
    try:
        yield
    except (BundleRefused, ManifestTooNew) as error:
        raise _with_name(file, error) from None


def _with_name(file: Path, error: BundleRefused | ManifestTooNew) -> ApplianceError:
    text = "".join(character if character.isprintable() else "?" for character in str(error))
    return type(error)(f"{file} {text[:MOST_TEXT]}; nothing was installed")
