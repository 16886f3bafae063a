"""What people can name to be measured: installed models, directories with an IR, GGUF files. Opens no model."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from appliance.engine.conversion import describe_weights
from appliance.engine.weights import weights_read_bytes
from appliance.errors import ConfigError
from appliance.models.errors import NotInstalled
from appliance.models.gguf.header import Header
from appliance.models.manifest import MODEL_FILES
from appliance.models.store import Installed, Store, check_id
from appliance.models.verification import require_sound

EMBEDDING = "token_embd.weight"  # in a GGUF
OUTPUT = "output.weight"
FLOATS = frozenset({"F32", "F16", "BF16"})

_FLOAT = re.compile(r'<data element_type="(f16|bf16|f32)" shape="\d+, \d+')

Source = Literal["installed", "ir", "gguf"]


class Artefact(Struct, frozen=True, kw_only=True):
    """A model that was named, and is there."""

    name: str
    source: Source
    path: Path
    """The directory, or the GGUF file."""
    digest: str | None = None
    """Of an installed model's content."""


class Weights(Struct, frozen=True, kw_only=True):
    """What an artefact's weights are."""

    described: str
    read_bytes: int | None
    """See Measured.weights_read_bytes."""
    integer_types: Sequence[str]
    """Those that a reference should not have, for people."""


def find_artefact(named: str, store: Store) -> Artefact:
    """The model that `named` is: ID or ID@DIGEST of an installed one, a directory with an IR, or a GGUF file.

    Raises ConfigError for what is no model, with what is missing; NotInstalled; ModelDamaged.
    """
    path = Path(named).expanduser()
    if path.is_file():
        return _gguf(path)
    model_id, at, digest = named.partition("@")
    if at and not digest:
        raise ConfigError(f"{named}: give the digest behind the @, or leave both out")
    if "/" not in named and not path.is_dir():
        return _installed(store, model_id, digest)
    if "/" not in named and store.entries(check_id(model_id)):
        return _installed(store, model_id, digest)
    if not path.is_dir():
        raise ConfigError(f"{named} is not there; name an installed model, a directory with an IR, or a GGUF file")
    missing = [name for name in MODEL_FILES if not (path / name).is_file()]
    if missing:
        raise ConfigError(
            f"{named} has no {', '.join(missing)}; name a directory with a model's IR and both tokenizers, as "
            "`appliance models import` installs it"
        )
    return Artefact(name=path.resolve().name, source="ir", path=path)


def with_clear_names(artefacts: Sequence[Artefact], named: Sequence[str]) -> list[Artefact]:
    """The artefacts; those that would share a name have what people said. Raises ConfigError for one named twice."""
    counts = Counter(artefact.name for artefact in artefacts)
    clear = [
        artefact if counts[artefact.name] == 1 else _renamed(artefact, name)
        for artefact, name in zip(artefacts, named, strict=True)
    ]
    twice = [name for name, count in Counter(artefact.name for artefact in clear).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is named twice; name each artefact once")
    return clear


def weights_of_ir(directory: Path) -> Weights:
    """What the IR in `directory` says. Raises OSError."""
    ir = (directory / "openvino_model.xml").read_text("utf-8")
    integers = describe_weights(ir)
    floats = Counter(_FLOAT.findall(ir)).most_common(1)
    described = integers or (floats[0][0].upper() if floats else "unknown")
    read_bytes = weights_read_bytes(directory)
    return Weights(described=described, read_bytes=read_bytes, integer_types=[integers] if integers else [])


def weights_of_gguf(header: Header, matrix_types: Sequence[str]) -> Weights:
    """What a GGUF file's header says; bytes are those of the file, not of what GenAI makes of it.

    Of an embedding beside an output matrix one row is read.
    """
    untied = any(tensor.name == OUTPUT for tensor in header.tensors)
    read = [tensor.size_bytes for tensor in header.tensors if not (untied and tensor.name == EMBEDDING)]
    return Weights(
        described=f"{', '.join(matrix_types)}, dequantized",
        read_bytes=sum(read),
        integer_types=[name for name in matrix_types if name not in FLOATS],
    )


def _gguf(file: Path) -> Artefact:
    with file.open("rb") as content:
        magic = content.read(4)
    if magic != b"GGUF":
        raise ConfigError(f"{file} is no GGUF file; name an installed model, a directory with an IR, or a GGUF file")
    return Artefact(name=file.name, source="gguf", path=file)


def _installed(store: Store, model_id: str, digest: str) -> Artefact:
    found = [entry for entry in store.entries(model_id) if entry.directory.name.startswith(digest[:16])]
    if not found:
        which = f" with digest {digest}" if digest else ""
        raise NotInstalled(
            f"model {model_id}{which} is not installed in {store.directory}, and no file or directory here has that "
            "name; see: appliance models list"
        )
    if digest and len(found) > 1:
        names = ", ".join(entry.directory.name for entry in found)
        raise ConfigError(f"{model_id}@{digest} could be each of {names}; give more of the digest")
    entry = found[0]
    if not isinstance(entry, Installed):
        raise entry.error
    require_sound(entry.manifest, entry.directory)
    name = f"{model_id}@{entry.directory.name[:8]}" if digest else model_id
    return Artefact(name=name, source="installed", path=entry.directory, digest=entry.manifest.digest)


def _renamed(artefact: Artefact, name: str) -> Artefact:
    return Artefact(name=name, source=artefact.source, path=artefact.path, digest=artefact.digest)
