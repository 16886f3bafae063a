"""The record of one installed model: what it is, where it came from, which bytes it has. Touches no model file."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from appliance.models.catalog import ModelId
from appliance.models.errors import ManifestTooNew, ModelDamaged, mending_command
from appliance.types import GenerationDefaults

MANIFEST_NAME = "manifest.json"
BUNDLE_INDEX_NAME = "bundle.json"  # beside it, where the model came in a bundle
MANIFEST_FORMAT = 1
MODEL_FILES = tuple(
    f"openvino_{part}.{end}" for part in ("model", "tokenizer", "detokenizer") for end in ("xml", "bin")
)
"""What every model has. The chat template is in the tokenizer, and the generation defaults are in the manifest."""
DIGEST_NAME_LENGTH = 16  # hex digits of a digest that name a model's directory

Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")]
Release = Annotated[str, Meta(pattern=r"\A[0-9]+\.[0-9]+")]


class SourceRecord(Struct, frozen=True, kw_only=True):
    """Where the model came from."""

    kind: str
    name: str
    """The package or the repository."""
    revision: str
    file: str
    sha256: Digest
    """Of the source file, as it was read."""


class FileRecord(Struct, frozen=True):
    """One file of the model."""

    sha256: Digest
    size_bytes: int


class OpenVinoVersions(Struct, frozen=True):
    """Releases of the two packages that decide which IR can be read."""

    openvino: Release
    openvino_genai: Release


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything about an installed model that can be known without opening it."""

    format: int = MANIFEST_FORMAT
    id: ModelId
    title: str
    licence: str
    source: SourceRecord
    quantization: str
    """For people: "Q4_1 as in the GGUF: INT4 asymmetric group 32 (105 M weights), …"."""
    recipe: str = ""
    """The recipe that quantized the weights; empty where they are as in the source."""
    languages: tuple[str, ...] = ()
    """Codes of those that its makers name."""
    context_tokens: int
    parameters: int
    eos_token_ids: tuple[int, ...]
    generation: GenerationDefaults
    files: dict[FileName, FileRecord]
    openvino: OpenVinoVersions
    """What wrote the IR."""
    created_at: str
    """UTC, ISO 8601, microseconds: the newest of a model's manifests has the greatest text."""
    digest: str = ""
    """content_digest of this manifest."""

    @property
    def directory_name(self) -> str:
        """The name of the model's directory below its id."""
        return self.digest[:DIGEST_NAME_LENGTH]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(record.size_bytes for record in self.files.values())


def content_digest(manifest: Manifest) -> str:
    """sha256, in hex, over the canonical JSON of all fields but created_at and digest.

    Fields that came after the first manifests count only where they say something, so that older digests hold.
    """
    content = msgspec.structs.asdict(manifest)
    del content["created_at"], content["digest"]
    for later in ("recipe", "languages"):
        if not content[later]:
            del content[later]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def sealed(manifest: Manifest) -> Manifest:
    """The same manifest with its digest filled in."""
    return msgspec.structs.replace(manifest, digest=content_digest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of manifest.json."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(text: bytes, name: str) -> Manifest:
    """The manifest in `text`, which people know as `name`.

    Raises ManifestTooNew for a later format or fields that came later; ValueError, with the reason, where it is no
    manifest or was changed.
    """
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found > MANIFEST_FORMAT:
            raise ManifestTooNew(
                f"{name}: format {found} of a newer appliance, this one knows {MANIFEST_FORMAT}; upgrade the appliance"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
        given = set(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if content_digest(manifest) != manifest.digest:
        later = sorted(given - set(Manifest.__struct_fields__))
        if later:  # they belong to what the digest stands for
            raise ManifestTooNew(f"{name}: this appliance does not know {later[0][:40]!a}; upgrade the appliance")
        raise ValueError("its digest is not that of its content")
    return manifest


def read_manifest(directory: Path, model_id: str) -> Manifest:
    """The manifest of the model in `directory`, which is a directory of `model_id`.

    Raises ManifestTooNew for a later format; ModelDamaged where the file is missing, is not a manifest, was
    changed, or belongs elsewhere.
    """
    file = directory / MANIFEST_NAME
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _damaged(file, model_id, f"can't be read: {error.strerror}") from None
    try:
        manifest = decode_manifest(text, str(file))
    except ValueError as error:
        raise _damaged(file, model_id, f"is damaged: {error}") from None
    if manifest.id != model_id or manifest.directory_name != directory.name:
        raise _damaged(file, model_id, f"belongs to {manifest.id}/{manifest.directory_name}")
    return manifest


def came_in_bundle(directory: Path) -> bool:
    """Whether the model in `directory` was installed from a bundle."""
    return (directory / BUNDLE_INDEX_NAME).is_file()


def installed_versions() -> OpenVinoVersions | None:
    """Releases of OpenVINO and OpenVINO GenAI in this environment, without importing them; None: not installed."""
    try:
        return OpenVinoVersions(metadata.version("openvino"), metadata.version("openvino-genai"))
    except metadata.PackageNotFoundError:
        return None


class _Format(Struct):
    format: int


def _damaged(file: Path, model_id: str, what: str) -> ModelDamaged:
    return ModelDamaged(f"{file} {what}; run: {mending_command(model_id, bundled=came_in_bundle(file.parent))}")
