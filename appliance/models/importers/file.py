"""Models out of GGUF files on this machine, and what is said of whatever comes from here. Converts nothing itself."""

import hashlib
import os
import re
from pathlib import Path

from msgspec.structs import replace

from appliance.config.remedies import extra_remedy
from appliance.errors import ConfigError
from appliance.models.catalog import Catalog, CatalogModel, CheckpointSource, FileSource, Source
from appliance.models.checkpoint.files import checkpoint_files
from appliance.models.errors import DigestMismatch, ImportFailed
from appliance.models.facts import Facts, one_line
from appliance.models.importers import Built, Converter
from appliance.models.progress import Progress
from appliance.models.store import check_id
from appliance.types import GenerationDefaults

CHUNK_BYTES = 1 << 20
UNKNOWN_LICENCE = "unknown"
MOST_ID = 64

# For models that no catalog knows: the makers' own where an architecture is one maker's, else what small models bear.
GENERATION = {
    "qwen2": GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1),
    "qwen3": GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05),
}
USUAL = GenerationDefaults(temperature=0.6, top_p=0.9, top_k=40, repetition_penalty=1.1)


class FileImporter:
    """Gives a file to `convert` as it lies, and notices where it changes meanwhile."""

    def __init__(self, convert: Converter) -> None:
        self._convert = convert

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer."""
        if not isinstance(source, FileSource):
            raise TypeError(f"not a file: {source}")
        file = Path(source.path)
        before = _state(file)
        sha256 = digest_of(file, f"{model.id}: checking", progress)
        if source.sha256 and sha256 != source.sha256:
            raise DigestMismatch(f"{file} has another digest: sha256 {sha256}, expected {source.sha256}")
        directory = scratch / "model"
        directory.mkdir()
        converted = self._convert(file, directory, model, progress)
        if _state(file) != before:
            raise ImportFailed(f"{model.id}: {file} changed while it was imported; import it again")
        return Built(directory=directory, source_sha256=sha256, source_revision="", converted=converted)


def digest_of(file: Path, label: str, progress: Progress) -> str:
    """The file's sha256. Raises ImportFailed where it can't be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb", buffering=0) as content:
            size = os.fstat(content.fileno()).st_size
            progress.stage(label, size or None)
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                progress.advance(content.tell(), size)
    except OSError as error:
        raise ImportFailed(f"{file} can't be read: {error.strerror}") from None
    return digest.hexdigest()


def describe_file(file: Path, facts: Facts, sha256: str, catalog: Catalog, model_id: str | None) -> CatalogModel:
    """The file, or the checkpoint's directory, as a model that can be installed.

    Where the catalog has that very file, its entry; where it has the id, its defaults for what the file leaves open.
    Raises ConfigError for an impossible id, and where none can be made of the file's own name.
    """
    path = file.absolute()
    source = (CheckpointSource if path.is_dir() else FileSource)(
        path=str(path),
        sha256=sha256,
        quantization=", ".join(facts.matrix_types),
        size_bytes=sum(part.stat().st_size for part in (checkpoint_files(path) if path.is_dir() else [path])),
    )
    own_name = path.name if path.is_dir() else path.stem
    for entry in catalog.models.values():
        if any(known.sha256 == sha256 for known in entry.source):
            return replace(entry, id=check_id(model_id or entry.id), source=(source,), download_bytes=0)
    wanted = check_id(model_id or id_of(facts.name) or id_of(own_name) or "")
    known = catalog.models.get(wanted)
    return CatalogModel(
        id=wanted,
        title=facts.name or (known.title if known else one_line(own_name) if path.is_dir() else wanted),
        licence=facts.licence or (known.licence if known else UNKNOWN_LICENCE),
        languages=facts.languages or (known.languages if known else ()),
        parameters=facts.parameters,
        context_tokens=facts.context_tokens,
        installed_bytes=source.size_bytes,
        eos_tokens=tuple(dict.fromkeys((*facts.eos_tokens, *(known.eos_tokens if known else ())))),
        generation=known.generation if known else facts.generation or GENERATION.get(facts.architecture, USUAL),
        source=(source,),
    )


def id_of(name: str) -> str:
    """A model's id made of a name: "Qwen2.5 0.5B Instruct" becomes qwen2.5-0.5b-instruct; "" where nothing is left."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:MOST_ID].rstrip("-._")


def require_extra() -> None:
    """Raises ConfigError with the command that installs what quantizing needs, where it is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("gguf", "nncf") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"importing needs {' and '.join(missing)}; run: {extra_remedy('quantize')} "
            "(or give --keep-quantization, for types that GenAI reads itself)"
        )


def _state(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise ImportFailed(f"{file} can't be read: {error.strerror}") from None
    return status.st_ino, status.st_size, status.st_mtime_ns
