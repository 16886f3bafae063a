"""Bundles for tests: a good one, and tars of any other content, made by Python's own tarfile."""

import functools
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from appliance.models.bundle import layout
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.bundle.signing import Signer, encode_signature, make_key
from appliance.models.bundle.writing import Written, write_bundle
from appliance.models.errors import BundleRefused
from appliance.models.fake import install_fake
from appliance.models.manifest import Manifest, decode_manifest, encode_manifest, sealed
from appliance.models.progress import Silent
from appliance.models.store import Installed, Store

LICENCE = b"Do as you like.\n"


def good_bundle(
    directory: Path, *, signer: Signer | None = None, content: bytes = b"weights", model_id: str = "fake"
) -> Path:
    """A bundle of a fake model with the weights `content`, from a store of its own."""
    model = install_fake(Store(directory / f"store-of-{model_id}"), model_id, content)
    return write(model, directory / f"{model_id}.tar", signer=signer).file


@functools.cache
def good_bytes() -> bytes:
    """A good bundle's; made once, as installing a model to bundle costs more than most tests of it."""
    with tempfile.TemporaryDirectory() as directory:
        return good_bundle(Path(directory)).read_bytes()


def write(model: Installed, target: Path, *, signer: Signer | None = None) -> Written:
    """Write a bundle with a short licence text."""
    return write_bundle(model, target, Silent(), signer=signer, licence=LICENCE)


def signer_in(directory: Path, name: str = "key.pem") -> Signer:
    """A new key."""
    return make_key(directory / name)


def members_of(bundle: Path) -> list[tuple[str, bytes]]:
    """Names and contents, as tarfile reads them."""
    with tarfile.open(bundle) as tar:
        return [(member.name, content.read()) for member in tar if (content := tar.extractfile(member)) is not None]


def info(name: str, size: int = 0, **changes: object) -> tarfile.TarInfo:
    """A member's header as a bundle has it, but for `changes`."""
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in changes.items():
        setattr(member, key, value)
    return member


def tar_of(target: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]], end: bytes = layout.END) -> Path:
    """A tar of those members, without the zeros that tarfile pads with."""
    text = b""
    for name, body in members:
        member = info(name, len(body)) if isinstance(name, str) else name
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            tar.addfile(member, io.BytesIO(body))
            length = tar.offset
        text += stream.getvalue()[:length]
    target.write_bytes(normal(text) + end)
    return target


def normal(text: bytes) -> bytes:
    """With the headers that the layout has, where tarfile of this Python writes other zeros for no device."""
    blocks = [text[at : at + layout.BLOCK_BYTES] for at in range(0, len(text), layout.BLOCK_BYTES)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and block[156:157] == b"0":
            name = block[:100].rstrip(b"\0").decode("ascii", "replace")
            mine = layout.header(name, int(block[124:135], 8)) if name.isascii() else block
            if block[:148] == mine[:148]:
                blocks[number] = mine
    return b"".join(blocks)


def index_of(manifest: Manifest, files: dict[str, bytes], **changes: object) -> bytes:
    """The index of a bundle with that manifest and those files, licence first; `changes` replace its keys."""
    bodies = {"LICENSE": LICENCE, "manifest.json": encode_manifest(manifest), **files}
    index = layout.Index(
        id=manifest.id,
        digest=manifest.digest,
        members=tuple(member_of(name, body) for name, body in bodies.items()),
    )
    text = layout.encode_index(index)
    if not changes:
        return text
    return (json.dumps({**json.loads(text), **changes}, indent=1) + "\n").encode()


def member_of(name: str, body: bytes) -> layout.Member:
    """A member of an index."""
    return layout.Member(name=name, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def bundle_of(target: Path, manifest: Manifest, files: dict[str, bytes], signer: Signer | None = None) -> Path:
    """A well-formed bundle of a manifest that may be anything."""
    index = index_of(manifest, files)
    own = [(layout.INDEX_NAME, index)]
    if signer is not None:
        own.append((layout.SIGNATURE_NAME, encode_signature(signer.sign(index))))
    return tar_of(target, [*own, ("LICENSE", LICENCE), ("manifest.json", encode_manifest(manifest)), *files.items()])


def changed(bundle: Path, **changes: object) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle's manifest with other values, sealed anew, and its model's files."""
    members = dict(members_of(bundle))
    manifest = decode_manifest(members["manifest.json"], "manifest")
    files = {name: body for name, body in members.items() if name in manifest.files}
    return sealed(replace(manifest, **changes)), files


def with_index(good: Path, **changes: Any) -> Path:
    """The bundle with another index, which fits nothing else."""
    members = dict(members_of(good))
    index = {**json.loads(members["bundle.json"]), **changes}
    return tar_of(good, [("bundle.json", (json.dumps(index, indent=1) + "\n").encode()), *list(members.items())[1:]])


def members_with(good: Path, position: int, **changes: Any) -> list[dict[str, Any]]:
    """The members in a bundle's index, the one at `position` with other values."""
    members: list[dict[str, Any]] = json.loads(dict(members_of(good))["bundle.json"])["members"]
    members[position] |= changes
    return members


def refused(bundle: Path, store: Store, error: type[Exception] | tuple[type[Exception], ...] = BundleRefused) -> str:
    """What is said of it: one line, without anything that moves a cursor. Nothing has been written."""
    with pytest.raises(error) as caught, open_bundle(bundle) as opened:
        Installer(store=store, progress=Silent(), wait_s=5).install(opened)
    said = str(caught.value)
    assert said.startswith(f"{bundle} ")
    assert said.isprintable()
    assert len(said) < 1500
    assert not store.directory.exists()
    return said
