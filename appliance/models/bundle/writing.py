"""A bundle of an installed model: the same model, licence text and key make the same bytes. Knows no terminal.

Not compressed: quantized weights are close to random.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.bundle import layout
from appliance.models.bundle.layout import Index, Member
from appliance.models.bundle.reading import check_manifest
from appliance.models.bundle.signing import Signature, Signer, encode_signature, kept_signature
from appliance.models.durable import open_replacement
from appliance.models.errors import BundleRefused, DiskFull, ModelDamaged, ModelError
from appliance.models.licences import licence_text
from appliance.models.manifest import MANIFEST_NAME, Manifest, encode_manifest
from appliance.models.progress import Progress
from appliance.models.store import Installed
from appliance.models.verification import mending

CHUNK_BYTES = 1 << 20
CREATED_AT = "1970-01-01T00:00:00.000000+00:00"
"""In a bundle's manifest: when a model was installed says nothing of what it is."""


class Written(Struct, frozen=True, kw_only=True):
    """A bundle that is there now."""

    file: Path
    size_bytes: int
    index: Index
    signature: Signature | None


def write_bundle(
    model: Installed, target: Path, progress: Progress, *, signer: Signer | None = None, licence: bytes | None = None
) -> Written:
    """Make `target` the bundle of `model`; it replaces what is there, once it is complete.

    `licence`: the text, where none was installed with the model and none comes with the appliance. Without `signer` the
    signature that the model came with is kept, where it is still one of what is written.
    Raises ConfigError (no licence text), ModelDamaged, ModelError (can't be written, no room).
    """
    _require_file(target)
    text = licence if licence is not None else _licence_text(model)
    manifest = encode_manifest(msgspec.structs.replace(model.manifest, created_at=CREATED_AT))
    index = make_index(model.manifest, text, manifest)
    index_text = layout.encode_index(index)
    signature = signer.sign(index_text) if signer is not None else kept_signature(model.directory, index_text)
    own = [(layout.INDEX_NAME, index_text)]
    if signature is not None:
        own.append((layout.SIGNATURE_NAME, encode_signature(signature)))
    own += [(layout.LICENCE_NAME, text), (MANIFEST_NAME, manifest)]
    size_bytes = layout.bundle_bytes([*(len(body) for _, body in own), *(member.size_bytes for member in index.files)])
    try:
        free = shutil.disk_usage(target.parent).free
        if free < size_bytes:
            raise DiskFull(target.parent, size_bytes, free)
        with open_replacement(target) as content:
            for name, body in own:
                content.write(layout.header(name, len(body)) + body + bytes(layout.padding_bytes(len(body))))
            _copy_files(model, index, content, progress)
            content.write(layout.END)
    except OSError as error:
        raise ModelError(f"the bundle {target} can't be written: {error.strerror}") from None
    return Written(file=target, size_bytes=size_bytes, index=index, signature=signature)


def make_index(manifest: Manifest, licence: bytes, manifest_text: bytes) -> Index:
    """The index of a model's bundle. Raises ModelError where the model can't be in one."""
    members = [
        *(_member(name, body) for name, body in ((layout.LICENCE_NAME, licence), (MANIFEST_NAME, manifest_text))),
        *(
            Member(name=name, size_bytes=record.size_bytes, sha256=record.sha256)
            for name, record in sorted(manifest.files.items())
        ),
    ]
    index = Index(id=manifest.id, digest=manifest.digest, members=tuple(members))
    try:
        check_manifest(manifest)
    except BundleRefused as error:
        raise ModelError(f"{manifest.id} can't be bundled: {error}") from None
    try:
        layout.decode_index(layout.encode_index(index))  # what installing will ask of it
    except BundleRefused as error:
        raise ModelError(f"{manifest.id} can't be bundled: a bundle of it {error}") from None
    return index


def _member(name: str, body: bytes) -> Member:
    return Member(name=name, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def _require_file(target: Path) -> None:
    if target.exists() and not target.is_file():
        raise ModelError(f"the bundle {target} can't be written: there is something that is not a file")


def _licence_text(model: Installed) -> bytes:
    try:
        return (model.directory / layout.LICENCE_NAME).read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ModelDamaged(f"{error.filename} can't be read: {error.strerror}") from None
    try:
        return licence_text(model.manifest.licence)
    except ConfigError as error:
        raise ConfigError(f"{model.id}: {error}") from None


def _copy_files(model: Installed, index: Index, content: IO[bytes], progress: Progress) -> None:
    """Headers and files. Raises ModelDamaged where one is not what the manifest says, OSError where writing fails."""
    total = sum(member.size_bytes for member in index.files)
    done = 0
    progress.stage(f"{model.id}: bundling", total)
    for member in index.files:
        content.write(layout.header(member.name, member.size_bytes))
        for piece in _read_pieces(model, member):
            content.write(piece)
            done += len(piece)
            progress.advance(done, total)
        content.write(bytes(layout.padding_bytes(member.size_bytes)))


def _read_pieces(model: Installed, member: Member) -> Iterator[bytes]:
    file = model.directory / member.name
    digest = hashlib.sha256()
    left = member.size_bytes
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != member.size_bytes:
                raise _damaged(model, file)
            while left and (piece := source.read(min(left, CHUNK_BYTES))):
                digest.update(piece)
                left -= len(piece)
                yield piece
    except OSError as error:
        raise ModelDamaged(
            f"{file} can't be read: {error.strerror}; run: {mending(model.manifest, model.directory)}"
        ) from None
    if left or digest.hexdigest() != member.sha256:
        raise _damaged(model, file)


def _damaged(model: Installed, file: Path) -> ModelDamaged:
    return ModelDamaged(
        f"{file} is not what was installed, nothing was bundled; run: {mending(model.manifest, model.directory)}"
    )
